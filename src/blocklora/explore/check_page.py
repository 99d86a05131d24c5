"""The page and the spreadsheet of ``check``."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from blocklora.core.errors import ImageError
from blocklora.core.files import write_text
from blocklora.core.words import count
from blocklora.data import open_image
from blocklora.explore.check import CheckResult
from blocklora.report.finding_views import kind_views
from blocklora.report.html import check_page, render, write_page

__all__ = ["page_path", "sentence", "write_check_csv", "write_check_page"]

COLUMNS = ("kind", "image", "label", "split", "action", "suggested_label", "score", "others", "message")
_SHOWN = 24  # findings of a kind
_SMALL = 320  # pixels that a thumbnail is made from


def page_path(out: Path) -> Path:
    """Return the page's file: ``out`` itself, or check.html in it where it is a folder or has no ending of a page.

    Raises:
        RunError: The file cannot be made there.
    """
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        out = out / "check.html"
    check_page(out)
    return out


def sentence(result: CheckResult) -> str:
    """Say what was looked at."""
    parts = ", ".join(f"{name} {n:,}" for name, n in result.parts.items())
    total = sum(result.parts.values())
    return (
        f"{result.name}: {total:,} {'image' if total == 1 else 'images'} ({parts}) of "
        f"{count(result.n_classes, 'class')}, looked at with the model {result.model}"
    )


def write_check_page(result: CheckResult, out: Path) -> None:
    """Write the findings as one self-contained HTML file, images side by side; the worst 24 of each kind.

    Args:
        result: What was found.
        out: The file, in a folder that exists; written whole or not at all.
    """

    def open_by_name(image: str) -> Image.Image | None:
        try:
            return open_image(result.sources[image], min_side=_SMALL)
        except (KeyError, ImageError):
            return None

    write_page(
        out,
        render(
            "check.html",
            room="explore",
            title=f"{result.name}: {count(len(result.findings), 'finding')}",
            sentence=sentence(result),
            notes=result.notes,
            kinds=kind_views(result.findings, open_by_name, _SHOWN),
        ),
    )


def write_check_csv(result: CheckResult, path: Path) -> None:
    """Write a row for every image of every finding, with what to do in the column ``action``.

    A finding about whole classes has no images, and a row with none. Cells that a spreadsheet would take for a
    formula begin with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in result.findings:
        for place, image in enumerate(one.images or ("",)):
            label, split = (one.labels[place], one.parts[place]) if image else ("", "")
            action = one.actions[place] if one.actions else "look"
            others = "; ".join(other for other in one.images if other != image)
            suggested = (one.suggested or "") if place == 0 else ""
            row = (one.kind, image, label, split, action, suggested, f"{one.score:.4f}", others, one.message)
            writer.writerow([f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t") else cell for cell in row])
    write_text(path, text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8"))
