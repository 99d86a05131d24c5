"""Whether the probabilities mean what they say. N images, C classes, B bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics.checks import Floats, Ints, checked_labels, checked_probabilities

__all__ = [
    "ECE_METHOD",
    "Calibration",
    "Reliability",
    "brier_score",
    "expected_calibration_error",
    "log_loss",
    "negative_log_likelihood",
    "reliability_bins",
    "top_calibration_error",
    "top_reliability_bins",
]

ECE_METHOD = "equal-mass bins, debiased"
MOST_BINS, IMAGES_A_BIN = (
    15,
    10,
)  # of the calibration error: a bin of fewer images says nothing of its accuracy
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # 1.2e-38: what single precision can still tell from 0


@dataclass(frozen=True)
class Reliability:
    """How often answers are correct at each confidence.

    Attributes:
        edges: B + 1 limits of the bins (lower, upper] of equal width on [0, 1].
        counts: (B,) images of each bin, by the probability of their top class.
        confidence: (B,) their mean top probability; None in an empty bin.
        accuracy: (B,) the share of correct top classes; None in an empty bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]


def reliability_bins(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> Reliability:
    """Sort the images by the probability of their top class and ask how often that class is correct.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.
        n_bins: B, at least 1.

    Returns:
        The bins.

    Raises:
        ConfigError: ``n_bins`` is below 1.
        DataError: The arrays do not fit each other, or a row is no distribution.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    return top_reliability_bins(*_top(probabilities, labels), n_bins)


def top_reliability_bins(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> Reliability:
    """The same where only the probability of each image's answer is known; see ``top_calibration_error``."""
    edges, counts, confidence_sums, correct_sums = _bins(*_sure_and_right(confidence, correct), n_bins)
    return Reliability(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        confidence=_means(confidence_sums, counts),
        accuracy=_means(correct_sums, counts),
    )


@dataclass(frozen=True)
class Calibration:
    """How honest probabilities are; the smaller, the better.

    Attributes:
        ece: ``expected_calibration_error``, in [0, 1].
        brier: ``brier_score``, in [0, 2].
        nll: ``negative_log_likelihood``, in nats.
    """

    ece: float
    brier: float
    nll: float


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """How far the confidence is from the accuracy, on average over the images.

    The images are sorted by the probability of their top class and cut into at most 15 bins of as many images each,
    10 or more. Chance alone makes the gap between accuracy and mean confidence of a bin of n images look larger, by
    E|X| - |gap| for X normal around the gap with variance accuracy (1 - accuracy) / n; that is taken off.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.

    Returns:
        sum over bins of (images in it / N) * (|accuracy - mean confidence| - what chance adds), in [0, 1].

    Raises:
        DataError: The arrays do not fit each other, or a row is no distribution.

    Source:
        Kumar et al., Verified Uncertainty Calibration, NeurIPS 2019, section 5 (bins of equal mass, debiased), for
        the error of Guo et al., ICML 2017, equation 3 (top label).
    """
    return top_calibration_error(*_top(probabilities, labels))


def top_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """The expected calibration error where only the probability of each image's answer is known.

    Args:
        confidence: (N,) probabilities of the top class, in [0, 1], N >= 1.
        correct: (N,) whether that class is the true one.

    Returns:
        As ``expected_calibration_error``.

    Raises:
        DataError: The lengths differ, there is no image, or a value is no probability.
    """
    sure, right = _sure_and_right(confidence, correct)
    n_bins = min(MOST_BINS, max(1, len(sure) // IMAGES_A_BIN))
    limits = np.quantile(sure, np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    place = np.searchsorted(limits, sure, side="left")  # (N,) in 0..B-1; equal values come together
    counts = np.maximum(np.bincount(place, minlength=n_bins), 1)
    accuracy = np.bincount(place, weights=right, minlength=n_bins) / counts
    gaps = np.abs(accuracy - np.bincount(place, weights=sure, minlength=n_bins) / counts)
    spreads = np.sqrt(accuracy * (1 - accuracy) / counts)
    shares = np.bincount(place, minlength=n_bins) / len(sure)
    return float(max(0.0, (shares * (gaps - _chance(gaps, spreads))).sum()))


def _chance(gaps: Floats, spreads: Floats) -> Floats:
    """E|X| - gap for X normal around each gap (B,), 0 or more, with each standard deviation (B,)."""
    safe = np.where(spreads > 0, spreads, 1.0)
    ratio = gaps / safe
    mean = safe * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + gaps * (1 - 2 * ndtr(-ratio))
    return np.asarray(np.where(spreads > 0, mean - gaps, 0.0))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The mean over images of the squared distance between the probabilities and the truth.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.

    Returns:
        mean of sum over classes of (p - 1[class is true])^2, in [0, 2].

    Raises:
        DataError: The arrays do not fit each other, or a row is no distribution.

    Source:
        Brier, Monthly Weather Review 78 (1950) 1-3.
    """
    checked = checked_probabilities(probabilities)
    truth = checked_labels(labels, *checked.shape)
    of_truth = checked[np.arange(len(truth)), truth]
    return float(((checked**2).sum(axis=1) - 2 * of_truth + 1).mean())


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
    return log_loss(np.minimum(checked[np.arange(len(truth)), truth], 1.0))


def log_loss(of_truth: ArrayLike) -> float:
    """The mean negative log-likelihood where only the probability of each image's true class is known.

    Args:
        of_truth: (N,) probabilities, in [0, 1], N >= 1.

    Returns:
        As ``negative_log_likelihood``.

    Raises:
        DataError: There is no image, or a value is no probability.
    """
    return float(-np.log(np.clip(_shares(of_truth, "of_truth"), LEAST_PROBABILITY, 1.0)).mean())


def _shares(values: ArrayLike, name: str) -> Floats:
    """The values as (N,) doubles, N >= 1, if each is a probability; else a ``DataError``."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not ((array >= 0) & (array <= 1)).all():
        raise DataError(
            f"{name} has shape {array.shape}; expected (N,) probabilities in [0, 1], N at least 1."
        )
    return array


def _means(sums: Floats, counts: Ints) -> tuple[float | None, ...]:
    return tuple(float(s / n) if n else None for s, n in zip(sums, counts, strict=True))


def _sure_and_right(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """(N,) confidences and (N,) 1.0 where the answer is correct, if there are as many; else a ``DataError``."""
    sure, right = _shares(confidence, "confidence"), np.asarray(correct, dtype=np.float64)
    if sure.shape != right.shape:
        raise DataError(
            f"{len(sure)} confidences and correct of shape {right.shape}; expected one each an image."
        )
    return sure, right


def _top(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """(N,) the top probability of each image, and (N,) 1.0 where the top class is the true one."""
    checked = checked_probabilities(probabilities)
    truth = checked_labels(labels, *checked.shape)
    confidence = np.minimum(checked.max(axis=1), 1.0)  # rounding may leave 1 + 1e-7
    return confidence, (checked.argmax(axis=1) == truth).astype(np.float64)


def _bins(confidence: Floats, correct: Floats, n_bins: int) -> tuple[Floats, Ints, Floats, Floats]:
    """(B + 1,) edges and, for each bin, (B,) its images, sum of confidence and sum of correct answers."""
    if n_bins < 1:
        raise ConfigError(f"n_bins is {n_bins}; expected 1 or more.")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")  # (N,) in 0..B-1; an edge belongs below
    counts = np.bincount(place, minlength=n_bins)
    confidence_sums = np.bincount(place, weights=confidence, minlength=n_bins).astype(np.float64)
    correct_sums = np.bincount(place, weights=correct, minlength=n_bins).astype(np.float64)
    return edges, counts, confidence_sums, correct_sums
