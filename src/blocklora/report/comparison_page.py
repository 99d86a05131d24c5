"""The page that shows runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from blocklora.core.errors import RunError
from blocklora.report.comparison import Comparison, DisputedImage, compared_sentence, pair_verdict, run_words
from blocklora.report.html import check_page, render, write_page
from blocklora.report.tables import OpenImage, Thumbnail, thumbnail
from blocklora.report.words import short_names

__all__ = ["check_comparison_page", "render_comparison", "shown_images", "write_comparison"]

MOST_CARDS = 24
MOST_ROWS = 500


@dataclass(frozen=True)
class DisputedCard:
    """A disputed image, the name to show, and its thumbnail, None where the image cannot be had."""

    disputed: DisputedImage
    name: str
    thumbnail: Thumbnail | None


def check_comparison_page(out: Path) -> None:
    """Raise unless a comparison can be written to a file of this name.

    Raises:
        RunError: It is a folder, lies in none, or its name does not end as that of a page.
    """
    check_page(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"{out}: expected the name of a page to write, such as comparison.html.")
    if not out.parent.is_dir():
        raise RunError(f"{out}: there is no folder {out.parent}; make it, or name another file.")


def write_comparison(comparison: Comparison, out: Path, open_image: OpenImage) -> None:
    """Write a comparison as a single self-contained HTML file.

    Args:
        comparison: The runs, side by side.
        out: The file to write, such as comparison.html, in a folder that exists. It is written whole or not at all.
        open_image: Gives one of the ``shown_images`` by its name, or None where it cannot be had.

    Raises:
        RunError: ``out`` cannot be the name of a page.
    """
    check_comparison_page(out)
    write_page(out, render_comparison(comparison, open_image))


def shown_images(comparison: Comparison) -> list[DisputedImage]:
    """Return the images that the page shows as thumbnails: at most 24, spread evenly over all that are disputed."""
    return list(comparison.disputed[:: ceil(len(comparison.disputed) / MOST_CARDS) or 1])


def render_comparison(comparison: Comparison, open_image: OpenImage) -> str:
    """Return the page that ``write_comparison`` writes, as HTML."""
    names = short_names([one.image for one in comparison.disputed])
    runs = comparison.runs
    return render(
        "comparison.html",
        title=f"{' and '.join(run.key for run in runs) if len(runs) < 3 else f'{len(runs)} runs'} compared",
        sentence=compared_sentence(comparison),
        runs=runs,
        folders=short_names([run.folder for run in runs]),
        run_words=run_words,
        pairs=[(pair, pair_verdict(pair)) for pair in comparison.pairs],
        notes=comparison.notes,
        n_images=comparison.n_images,
        n_disputed=len(comparison.disputed),
        cards=[
            DisputedCard(one, names[one.image], thumbnail(one.image, open_image))
            for one in shown_images(comparison)
        ],
        rows=comparison.disputed[:MOST_ROWS],
        names=names,
    )
