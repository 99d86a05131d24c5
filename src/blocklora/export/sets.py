"""Thresholds of probability with which a set of classes holds the true one as often as is asked for.

n = validation images, N = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocklora.classifier import Classifier
from blocklora.metrics import SetScore, fewest_images, strangeness

__all__ = ["set_thresholds", "thresholds_of", "true_strangeness"]

_COVERAGES = (0.8, 0.9, 0.95)
_SCORE: SetScore = "lac"


def thresholds_of(classifier: Classifier) -> Mapping[str, Any]:
    """Return the thresholds of a classifier that has answered validation images; else nothing.

    Where training images stood in for them, each is judged by a classifier of its own, and no threshold says that.
    """
    held_out = classifier.evidence.held_out
    if held_out is None or held_out.how != "validation":
        return {}
    return set_thresholds(held_out.strangeness[_SCORE])


def true_strangeness(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how strange the true class of each image is (n,), of logits (n, N) before the temperature."""
    found: NDArray[np.float64] = strangeness(logits, _SCORE)[np.arange(len(labels)), labels]
    return found


def set_thresholds(of_truth: NDArray[np.float64]) -> Mapping[str, Any]:
    """Return what export.json says of sets.

    Args:
        of_truth: Minus the log-probability of the true class of each image, at temperature 1 (n,).

    Returns:
        ``images``, n; and ``least_probability`` by coverage: at temperature 1, a class of that probability or more is
        in the set. 0, every class, where there are too few images.
    """
    ordered, n = np.sort(of_truth), len(of_truth)
    least = {}
    for coverage in _COVERAGES:
        enough = n >= fewest_images(coverage)
        place = ceil((n + 1) * coverage - 1e-9) - 1
        least[f"{coverage:g}"] = float(np.exp(-ordered[place])) if enough else 0.0
    return {"images": n, "least_probability": least}
