"""Pages from templates: each one HTML file that needs nothing else, now or in ten years."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from blocklora.core.errors import RunError
from blocklora.core.files import write_text
from blocklora.report import words

__all__ = ["check_page", "render", "write_page"]


def render(template: str, **view: Any) -> str:
    """Return a page as HTML.

    Args:
        template: The name of a file beside this one; it extends base.html.
        **view: What the template shows, each worked out and named.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_asset),
    )
    environment.filters.update(
        count=words.count,
        duration=words.duration,
        percent=words.percent,
        percent_range=words.percent_range,
        signed=words.signed,
        p_value=words.p_value,
    )
    script = _asset("sort.js")
    return environment.get_template(template).render(
        style=Markup(_asset("style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
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


def _asset(name: str) -> str:
    return files("blocklora.report").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")
