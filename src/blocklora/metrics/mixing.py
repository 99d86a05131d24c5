"""Weights of classifiers whose mean probability predicts. K classifiers, N images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from blocklora.core.errors import DataError
from blocklora.metrics.checks import Floats

__all__ = ["mixture_weights"]

_STEPS = 200
_SETTLED = 1e-10


def mixture_weights(of_truth: ArrayLike) -> Floats:
    """The weights under which the weighted mean probability of the true classes has the lowest log loss.

    They are found by expectation-maximisation from equal weights: each image's share of a classifier is its part of
    the mean probability, and a classifier's weight is its mean share. The log loss is convex in the weights, and falls
    in every round.

    Args:
        of_truth: (K, N) probabilities of each image's true class by each classifier, K and N >= 1.

    Returns:
        (K,) weights, at least 0, with the sum 1.

    Raises:
        DataError: There is no classifier or no image, or a value is no probability.

    Source:
        Dempster, Laird & Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm, J. R. Statist. Soc. B
        39 (1977) 1-38, section 4.3.
    """
    shares = np.asarray(of_truth, dtype=np.float64)
    if shares.ndim != 2 or not shares.size or not ((shares >= 0) & (shares <= 1)).all():
        raise DataError(
            f"of_truth has shape {shares.shape}; expected (K, N) probabilities in [0, 1], K and N at least 1."
        )
    shares = np.maximum(shares, np.finfo(np.float32).tiny)  # a probability of 0 would decide alone
    weights = np.full(len(shares), 1 / len(shares))
    for _ in range(_STEPS):
        parts = weights[:, None] * shares  # (K, N)
        new = (parts / parts.sum(axis=0)).mean(axis=1)
        settled = float(np.abs(new - weights).max()) < _SETTLED
        weights = new
        if settled:
            break
    found: Floats = weights / weights.sum()
    return found
