"""Whether the probabilities mean what they say. N pictures, C classes, B bins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from blocklora.core.errors import ConfigError
from blocklora.metrics.checks import Floats, Ints, checked_labels, checked_probabilities, checked_scores

__all__ = [
    "expected_calibration_error",
    "fit_temperature",
    "negative_log_likelihood",
    "reliability_bins",
]

TEMPERATURE_RANGE = (0.05, 20.0)
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # 1.2e-38: what single precision can still tell from 0


def reliability_bins(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> dict[str, list[Any]]:
    """Sort the pictures by the probability of their top class and ask how often that class is right.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.
        n_bins: B, at least 1.

    Returns:
        ``edges``: B + 1 limits of the bins (lower, upper] of equal width on [0, 1]; and for each bin
        ``counts``, its pictures, ``confidence``, their mean top probability, and ``accuracy``, the share of
        right top classes; None in an empty bin.

    Raises:
        ConfigError: ``n_bins`` is below 1.
        DataError: The arrays do not fit each other, or a row is no distribution.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    confidence, correct = _top(probabilities, labels)
    edges, counts, confidence_sums, correct_sums = _bins(confidence, correct, n_bins)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "confidence": [float(s / n) if n else None for s, n in zip(confidence_sums, counts, strict=True)],
        "accuracy": [float(s / n) if n else None for s, n in zip(correct_sums, counts, strict=True)],
    }


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    """How far the confidence is from the accuracy, on average over the pictures.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.
        n_bins: B, at least 1.

    Returns:
        sum over bins of (pictures in it / N) * |accuracy - mean confidence|, in [0, 1].

    Raises:
        ConfigError: ``n_bins`` is below 1.
        DataError: The arrays do not fit each other, or a row is no distribution.

    Source:
        Guo et al., ICML 2017, equation 3 (top label, bins of equal width).
    """
    confidence, correct = _top(probabilities, labels)
    _, counts, confidence_sums, correct_sums = _bins(confidence, correct, n_bins)
    return float(np.abs(correct_sums - confidence_sums).sum() / counts.sum())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The mean of -log(probability of the true class), in nats.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.

    Returns:
        At least 0, and finite: a probability below 1.2e-38 (an underflow in single precision) counts as that.

    Raises:
        DataError: The arrays do not fit each other, or a row is no distribution.
    """
    checked = checked_probabilities(probabilities)
    truth = checked_labels(labels, *checked.shape)
    of_truth = checked[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(of_truth, LEAST_PROBABILITY, 1.0)).mean())


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T for which softmax(logits / T) fits pictures that were kept out of training.

    It minimises, over T in [0.05, 20],

        sum over pictures of -log softmax(logits / T)[label]   +   (1/T - 1 + log T)

    The first term alone is temperature scaling. On few pictures it can be absurd: where all are right it
    asks for T = 0, boundless certainty. The second term is 0 at T = 1, positive elsewhere, and weighs about
    as much as a handful of pictures: one moves T a little, a hundred move it where they want. Both terms are
    convex in 1/T, so there is one minimum, and the answer is the same every time.

    Args:
        logits: (N, C) scores as they enter the softmax. N may be 0.
        labels: (N,) true classes, 0..C-1.

    Returns:
        T. It is 1, no change, if there is no picture, or only one class to choose from.

    Raises:
        DataError: The arrays do not fit each other, or a logit is not finite.

    Source:
        Guo et al., ICML 2017, section 4.2, for the first term.
    """
    scores = checked_scores(logits, "logits")
    truth = checked_labels(labels, *scores.shape)
    if scores.shape[0] == 0 or scores.shape[1] == 1:
        return 1.0
    low, high = np.log(TEMPERATURE_RANGE)
    best = minimize_scalar(
        lambda log_t: _temperature_loss(scores, truth, float(log_t)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.clip(np.exp(best.x), *TEMPERATURE_RANGE))


def _temperature_loss(scores: Floats, truth: Ints, log_t: float) -> float:
    inverse = float(np.exp(-log_t))
    of_truth = log_softmax(scores * inverse, axis=1)[np.arange(len(truth)), truth]
    return float(-of_truth.sum()) + inverse - 1 + log_t


def _top(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """(N,) the top probability of each picture, and (N,) 1.0 where the top class is the true one."""
    checked = checked_probabilities(probabilities)
    truth = checked_labels(labels, *checked.shape)
    confidence = np.minimum(checked.max(axis=1), 1.0)  # rounding may leave 1 + 1e-7
    return confidence, (checked.argmax(axis=1) == truth).astype(np.float64)


def _bins(confidence: Floats, correct: Floats, n_bins: int) -> tuple[Floats, Ints, Floats, Floats]:
    """(B + 1,) edges and, for each bin, (B,) its pictures, sum of confidence and sum of right answers."""
    if n_bins < 1:
        raise ConfigError(f"n_bins is {n_bins}; expected 1 or more.")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")  # (N,) in 0..B-1; an edge belongs below
    counts = np.bincount(place, minlength=n_bins)
    confidence_sums = np.bincount(place, weights=confidence, minlength=n_bins).astype(np.float64)
    correct_sums = np.bincount(place, weights=correct, minlength=n_bins).astype(np.float64)
    return edges, counts, confidence_sums, correct_sums
