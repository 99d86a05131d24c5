"""The nearest images of each image, by blocks: never a matrix of all pairs.

Axes: M = images, D = the width of a feature, K = neighbours, B = images of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Neighbours", "nearest"]

_BLOCK_BYTES = 1 << 24  # of the cosines of one block; its order takes three times as much


@dataclass(frozen=True)
class Neighbours:
    """The nearest other images of each image, the nearest first.

    Attributes:
        places: Which they are (M, K).
        cosines: How near they are (M, K), float32.
    """

    places: NDArray[np.int64]
    cosines: NDArray[np.float32]


def nearest(features: NDArray[np.float32], k: int) -> Neighbours:
    """Find the K nearest others by cosine, exactly.

    Args:
        features: Unit features (M, D).
        k: K, 1 or more; no more than M - 1 are found.
    """
    m = len(features)
    k = min(k, m - 1)
    if k < 1:
        return Neighbours(np.empty((m, 0), np.int64), np.empty((m, 0), np.float32))
    size = max(1, _BLOCK_BYTES // (4 * m))
    places, cosines = np.empty((m, k), np.int64), np.empty((m, k), np.float32)
    for start in range(0, m, size):
        found = features[start : start + size] @ features.T  # (B, M)
        rows = np.arange(len(found))
        found[rows, start + rows] = -np.inf
        some = np.argpartition(-found, k - 1, axis=1)[:, :k]  # (B, K), in any order
        values = np.take_along_axis(found, some, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        places[start : start + size] = np.take_along_axis(some, order, axis=1)
        cosines[start : start + size] = np.take_along_axis(values, order, axis=1)
    return Neighbours(places, cosines)
