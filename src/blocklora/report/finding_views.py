"""What pages show of findings: images side by side, the worst of each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blocklora.findings.finding import KINDS, Finding, Kind
from blocklora.report.tables import OpenImage, Thumbnail, thumbnail
from blocklora.report.words import short_names

__all__ = ["FindingView", "KindView", "ShownImage", "kind_views"]

_SIDE_BY_SIDE = 4  # images of a finding
_PARTS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class ShownImage:
    """One image of a finding: the name to show, its label and split, what to do with it, and its thumbnail."""

    name: str
    label: str
    part: str
    action: str
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class FindingView:
    """One finding: what it is, its first images, and how many more there are."""

    what: str
    images: Sequence[ShownImage]
    more: int


@dataclass(frozen=True)
class KindView:
    """The findings of a kind: its key and words, how many there are, and the worst of them."""

    key: str
    words: Kind
    n: int
    shown: Sequence[FindingView]


def kind_views(findings: Sequence[Finding], open_image: OpenImage, most: int) -> list[KindView]:
    """Return the findings by kind, in their order.

    Args:
        findings: The gravest kind first, within a kind the worst first.
        open_image: Gives an image by its name, or None where it cannot be had.
        most: How many of a kind are shown.
    """
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.kind].append(finding)
    shown = {kind: found[:most] for kind, found in kinds.items()}
    listed = sorted(
        {one.images[place] for found in shown.values() for one in found for place in _first_of_each(one)}
    )
    small = {image: thumbnail(image, open_image) for image in listed}
    names = short_names(listed)
    return [
        KindView(kind, KINDS[kind], len(kinds[kind]), [_view(one, names, small) for one in found])
        for kind, found in shown.items()
    ]


def _first_of_each(finding: Finding) -> list[int]:
    """Return which images of a finding are shown: one of each label and split first, as these may be what is wrong."""
    first: dict[tuple[str, str], int] = {}
    for place, of in enumerate(zip(finding.labels, finding.parts, strict=True)):
        first.setdefault(of, place)
    leading = set(first.values())
    order = sorted(range(len(finding.images)), key=lambda place: (place not in leading, place))
    return sorted(order[:_SIDE_BY_SIDE])


def _view(finding: Finding, names: Mapping[str, str], small: Mapping[str, Thumbnail | None]) -> FindingView:
    plain = finding.kind == "label"  # where it is said above what to do, and the split says nothing
    images = []
    for place in _first_of_each(finding):
        image, part = finding.images[place], finding.parts[place]
        action = finding.actions[place] if finding.actions and not plain else ""
        where = "" if plain else _PARTS.get(part, part)
        images.append(ShownImage(names[image], finding.labels[place], where, action, small[image]))
    return FindingView(finding.what, images, len(finding.images) - len(images))
