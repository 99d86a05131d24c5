"""The images that show which classes are confused: mistaken test images beside training images of both classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blocklora.report.run_metrics import ConfusedPair
from blocklora.report.tables import OpenImage, Thumbnail, thumbnail

__all__ = ["ImageGroup", "PairView", "pair_views"]


@dataclass(frozen=True)
class ImageGroup:
    """Images that belong together: a title, and (name to show, small copy) of each."""

    title: str
    images: list[tuple[str, Thumbnail]]


@dataclass(frozen=True)
class PairView:
    """A pair of confused classes, and its images in groups."""

    pair: ConfusedPair
    groups: list[ImageGroup]


def pair_views(
    pairs: Sequence[ConfusedPair], shown: Mapping[str, str], open_image: OpenImage
) -> list[PairView]:
    """Return the pairs that have a mistaken image to show.

    Args:
        pairs: Of the metrics.
        shown: The name to show of every image.
        open_image: Gives an image by its name, or None where it cannot be had.
    """
    views = []
    for pair in pairs:
        titled = (
            (f"Test: {pair.label}, taken for {pair.predicted}", pair.mistaken),
            (f"Training: {pair.label}", pair.of_label),
            (f"Training: {pair.predicted}", pair.of_predicted),
        )
        groups = [ImageGroup(title, _images(names, shown, open_image)) for title, names in titled]
        if groups[0].images:
            views.append(PairView(pair, [group for group in groups if group.images]))
    return views


def _images(
    names: Sequence[str], shown: Mapping[str, str], open_image: OpenImage
) -> list[tuple[str, Thumbnail]]:
    """Return the images that can be had."""
    small = [(shown[name], thumbnail(name, open_image)) for name in names]
    return [(name, image) for name, image in small if image is not None]
