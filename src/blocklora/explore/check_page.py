"""The page and the spreadsheet of ``check``."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from blocklora.core.errors import ImageError
from blocklora.core.files import write_text
from blocklora.core.words import count
from blocklora.data import open_image
from blocklora.explore.check import CheckResult
from blocklora.explore.finding import KINDS, Finding
from blocklora.report.html import check_page, render, write_page
from blocklora.report.tables import Thumbnail, thumbnail
from blocklora.report.words import short_names

__all__ = ["page_path", "sentence", "write_check_csv", "write_check_page"]

COLUMNS = ("kind", "image", "label", "split", "action", "suggested_label", "score", "others", "message")
_SHOWN, _SIDE_BY_SIDE = 24, 4  # findings of a kind, and images of a finding
_SMALL = 320  # pixels that a thumbnail is made from


@dataclass(frozen=True)
class _Shown:
    """One image of a finding: the name to show, its label and split, what to do with it, and its thumbnail."""

    name: str
    label: str
    split: str
    action: str
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class _Row:
    """One finding as the page shows it."""

    what: str
    images: Sequence[_Shown]
    more: int


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

    kinds: dict[str, list[Finding]] = defaultdict(list)
    for finding in result.findings:
        kinds[finding.kind].append(finding)
    shown = {kind: found[:_SHOWN] for kind, found in kinds.items()}
    listed = {image for found in shown.values() for one in found for image in one.images[:_SIDE_BY_SIDE]}
    small = {image: thumbnail(image, open_by_name) for image in sorted(listed)}
    names = short_names(sorted(listed))

    def row(finding: Finding) -> _Row:
        actions = finding.actions or ("",) * len(finding.images)
        pairs = zip(finding.images[:_SIDE_BY_SIDE], actions, strict=False)
        images = [
            _Shown(names[image], *result.images[image], action, small[image]) for image, action in pairs
        ]
        return _Row(finding.what, images, len(finding.images) - len(images))

    write_page(
        out,
        render(
            "check.html",
            room="explore",
            title=f"{result.name}: {count(len(result.findings), 'finding')}",
            sentence=sentence(result),
            notes=result.notes,
            sections=[
                (kind, KINDS[kind], len(kinds[kind]), [row(one) for one in found])
                for kind, found in shown.items()
            ],
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
            label, split = result.images.get(image, ("", ""))
            action = one.actions[place] if one.actions else "look"
            others = "; ".join(other for other in one.images if other != image)
            suggested = (one.suggested or "") if place == 0 else ""
            row = (one.kind, image, label, split, action, suggested, f"{one.score:.4f}", others, one.message)
            writer.writerow([f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t") else cell for cell in row])
    write_text(path, text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8"))
