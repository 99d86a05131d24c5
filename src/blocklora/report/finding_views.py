"""What pages show of findings: images side by side, the worst of each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
    listed = sorted(
        {image for found in kinds.values() for one in found[:most] for image in one.images[:_SIDE_BY_SIDE]}
    )
    small = {image: thumbnail(image, open_image) for image in listed}
    names = short_names(listed)

    def view(finding: Finding) -> FindingView:
        n = len(finding.images)
        columns = (finding.labels or ("",) * n, finding.parts or ("",) * n, finding.actions or ("",) * n)
        rows = zip(finding.images[:_SIDE_BY_SIDE], *columns, strict=False)
        plain = finding.kind == "label"  # where it is said above what to do, and the split says nothing
        images = [
            ShownImage(
                names[image],
                label,
                "" if plain else _PARTS.get(part, part),
                "" if plain else action,
                small[image],
            )
            for image, label, part, action in rows
        ]
        return FindingView(finding.what, images, n - len(images))

    return [
        KindView(kind, KINDS[kind], len(found), [view(one) for one in found[:most]])
        for kind, found in kinds.items()
    ]
