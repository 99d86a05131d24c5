"""The page at ``/``: three files of the package, which ask nobody but this service for anything."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

__all__ = ["PATHS", "router"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PATHS = tuple(_FILES)
"""Where its files are."""

router = APIRouter(include_in_schema=False)


def _serve(path: str) -> None:
    """Answer a path with a file of this package, which is read once."""
    name, kind = _FILES[path]
    content = files("blocklora.serve").joinpath(name).read_bytes()

    @router.get(path)
    async def page() -> Response:
        return Response(
            content,
            media_type=kind,
            headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"},
        )


for _path in PATHS:
    _serve(_path)
