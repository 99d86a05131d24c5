"""Pages from templates: each one HTML file that needs nothing else, now or in ten years."""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from blocklora.core.errors import RunError
from blocklora.core.files import write_text
from blocklora.report import words

__all__ = ["check_page", "render", "write_page"]


def render(template: str, *, room: str = "report", script: str = "sort.js", **view: Any) -> str:
    """Return a page as HTML.

    Args:
        template: The name of a file in the room; it extends base.html.
        room: Where the template and the script lie; what is not there is taken from ``report``.
        script: The one script of the page.
        **view: What the template shows, each worked out and named.
    """
    read = partial(_asset, room)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(read),
    )
    environment.filters.update(
        count=words.count,
        duration=words.duration,
        percent=words.percent,
        percent_range=words.percent_range,
        signed=words.signed,
        p_value=words.p_value,
    )
    code = read(script)
    return environment.get_template(template).render(
        style=Markup(read("style.css")),
        script=Markup(code),
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii"),
        **view,
    )


def check_page(out: Path) -> None:
    """Raise unless a page can have this name.

    Raises:
        RunError: ``out`` is a folder.
    """
    if out.is_dir():
        raise RunError(
            f"{out} is a folder; expected the name of the report file, such as {out / 'report.html'}."
        )


def write_page(out: Path, page: str) -> None:
    """Write a page whole or not at all."""
    write_text(out, page.encode("utf-8", "replace").decode("utf-8"))  # a path may hold a lone surrogate


def _asset(room: str, name: str) -> str:
    own = files(f"blocklora.{room}").joinpath(name)
    found = own if own.is_file() else files("blocklora.report").joinpath(name)
    return found.read_text(encoding="utf-8").replace("\r\n", "\n")
