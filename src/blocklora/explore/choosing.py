"""Which unlabelled images to label next: MaxHerding (arXiv 2407.12212), and later Uncertainty Herding (2412.20644).

The images chosen maximise the mean over all unlabelled images x of u(x) max_s k(x, s), where s are the labelled and
chosen images and k(x, s) = exp(-|x - s|^2 / width^2): images that are typical of many others, and unlike each other.
With few labels a classifier's doubts say little, and u is 1; from about four labels a class on, u is 1 less the margin
between the two most probable classes.

Axes: M = unlabelled images, L = labelled ones, A = those of the M over which the mean is taken, D = the width of a
feature, N = classes, B = images of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEW", "choose_images", "doubt"]

FEW = 4
"""Labels a class below which doubts do not count; see docs/labelling.md for what was measured."""

_WIDTH = 0.5  # of the kernel on unit features; of 0.5 and 1, the better on digits, twemoji and clipart
_ANCHORS = 4000  # images over which the mean is taken, spread evenly over all
_BLOCK = 1024


def doubt(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 less the margin between the two most probable classes (M,) of probabilities (M, N)."""
    best = np.sort(probabilities, axis=1)[:, -2:]
    return 1 - (best[:, -1] - best[:, 0])


def choose_images(
    features: NDArray[np.float32],
    labelled: NDArray[np.float32],
    uncertainty: NDArray[np.float64],
    n: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose images greedily; the first adds most.

    The sum that is maximised is submodular, so that what an image would add only falls while others are chosen: it is
    computed anew only for the image that leads (Minoux, 1978). No M x M matrix is held.

    Args:
        features: Unit features of the unlabelled images (M, D).
        labelled: Those of the labelled ones (L, D); L may be 0.
        uncertainty: How doubtful each unlabelled image is, from 0 to 1 (M,).
        n: How many to choose; all, where there are no more.

    Returns:
        The places of those chosen, and what each added to the mean.
    """
    m = len(features)
    anchors = np.unique(np.linspace(0, m - 1, min(m, _ANCHORS)).round().astype(np.int64))
    around, weights = features[anchors], uncertainty[anchors]  # (A, D), (A,)
    covered = np.zeros(len(anchors))
    for start in range(0, len(labelled), _BLOCK):
        covered = np.maximum(covered, _kernel(around, labelled[start : start + _BLOCK]).max(axis=1))

    def gains(candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        more = np.maximum(_kernel(around, candidates) - covered[:, None], 0)  # (A, B)
        added: NDArray[np.float64] = weights @ more / len(anchors)
        return added

    bound = np.concatenate(
        [gains(features[start : start + _BLOCK]) for start in range(0, m, _BLOCK)] or [np.zeros(0)]
    )
    chosen: list[int] = []
    added: list[float] = []
    while len(chosen) < min(n, m):
        first = int(bound.argmax())
        bound[first] = gains(features[first : first + 1])[0]
        if bound[first] < bound.max():
            continue
        chosen.append(first)
        added.append(float(bound[first]))
        covered = np.maximum(covered, _kernel(around, features[first : first + 1])[:, 0])
        bound[first] = -1.0
    return np.array(chosen, dtype=np.int64), np.array(added)


def _kernel(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the kernel of unit features (A, D) and (B, D): (A, B)."""
    found: NDArray[np.float64] = np.exp((2 * (one @ two.T).astype(np.float64) - 2) / _WIDTH**2)
    return found
