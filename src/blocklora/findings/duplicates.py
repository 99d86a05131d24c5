"""Images that are the same, or the same to the eye: saved anew, resized, or slightly changed.

Axes: M = images, K = neighbours, U = images without the exact copies of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blocklora.findings.neighbours import Neighbours
from blocklora.findings.properties import SKETCH, Properties

__all__ = ["CopyGroup", "exact_groups", "near_groups"]

_COSINE, _SKETCH = 0.92, 0.99  # enough for two images to be the same
_NEARER, _LIKE_COSINE, _LIKE_SKETCH, _BITS = (
    0.25,
    0.97,
    0.93,
    6,
)  # of changed ones that stand out among their neighbours


@dataclass(frozen=True)
class CopyGroup:
    """Images that belong together.

    Attributes:
        places: Which they are, ascending.
        likeness: The cosine of the pair that is alike most; 1 for exact copies.
        why: How they are the same, in a few words.
    """

    places: tuple[int, ...]
    likeness: float
    why: str


def exact_groups(contents: Sequence[Hashable], pixels: Sequence[Hashable]) -> list[CopyGroup]:
    """CopyGroup images of the same bytes or the same pixels.

    Args:
        contents: A digest of the bytes of each (M,).
        pixels: A digest of the pixels of each (M,).
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, digest in enumerate(pixels):  # the same bytes have the same pixels
        groups[digest].append(place)
    found = []
    for places in groups.values():
        if len(places) > 1:
            same = len({contents[place] for place in places}) == 1
            found.append(CopyGroup(tuple(places), 1.0, "the same file" if same else "the same pixels"))
    return found


def near_groups(
    properties: Sequence[Properties], neighbours: Neighbours, left_out: NDArray[np.bool_]
) -> list[CopyGroup]:
    """CopyGroup images that are the same to the eye: near by features and by pixels.

    Two images are so where their features have a cosine of 0.92 or more and their sketches correlate with 0.99. They
    are so, too, with a cosine of 0.97 where the sketches correlate with 0.93 or the perceptual hashes differ in at most
    6 of 63 bits, as of resized line art, if they are also four times nearer than the K-th neighbour usually is: where
    all images are alike, as handwritten digits are, that tells copies from others. An image with a side of fewer pixels
    than a sketch shows too little for that: of such images only exact copies are told.

    Args:
        properties: Of each image (U,).
        neighbours: Its nearest others (U, K).
        left_out: Images that are one colour, all of which look the same (U,).
    """
    left_out = left_out | np.array([min(one.width, one.height) < SKETCH for one in properties], dtype=bool)
    usual = float(np.median(1 - neighbours.cosines[:, -1])) if neighbours.cosines.size else 0.0
    nearer = max(_LIKE_COSINE, 1 - _NEARER * usual)
    above: dict[int, int] = {}
    best: dict[int, float] = defaultdict(float)

    def root(place: int) -> int:
        while place in above:
            place = above[place]
        return place

    pairs = []
    for one, column in zip(*np.nonzero(neighbours.cosines >= _COSINE), strict=True):
        other, cosine = int(neighbours.places[one, column]), float(neighbours.cosines[one, column])
        if left_out[one] or left_out[other] or not _alike(properties[one], properties[other], cosine, nearer):
            continue
        pairs.append((int(one), cosine))
        first, second = sorted((root(int(one)), root(other)))
        if first != second:
            above[second] = first
    for one, cosine in pairs:
        best[root(one)] = max(best[root(one)], min(cosine, 1.0))
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(properties)):
        if root(place) in best:
            groups[root(place)].append(place)
    return [CopyGroup(tuple(places), best[first], "nearly the same") for first, places in groups.items()]


def _alike(one: Properties, two: Properties, cosine: float, nearer: float) -> bool:
    """Whether two images of a cosine of 0.92 or more are the same to the eye."""
    correlation = _correlation(one.sketch, two.sketch)
    if correlation >= _SKETCH:
        return True
    return cosine >= nearer and (
        correlation >= _LIKE_SKETCH or int(np.count_nonzero(one.bits != two.bits)) <= _BITS
    )


def _correlation(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> float:
    """Return Pearson's correlation of two sketches; 0 where one of them is flat."""
    a, b = (sketch.astype(np.float64) - sketch.mean() for sketch in (one, two))
    scale = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0
