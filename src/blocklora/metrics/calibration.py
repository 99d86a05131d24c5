"""Whether the probabilities mean what they say. N images, C classes, B bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics.checks import Floats, Ints, checked_labels, checked_probabilities, checked_scores

__all__ = [
    "Reliability",
    "expected_calibration_error",
    "fit_temperature",
    "log_loss",
    "negative_log_likelihood",
    "reliability_bins",
    "top_calibration_error",
    "top_reliability_bins",
]

USUAL_SPREAD = 2.5  # of zero-shot CLIP's logits over the classes, whose temperature is about right
LOG_RANGE = 9.0  # e^9 = 8,100: the temperatures tried reach that far below and above the logits' spread
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


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> float:
    """How far the confidence is from the accuracy, on average over the images.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1.
        labels: (N,) true classes, 0..C-1.
        n_bins: B, at least 1.

    Returns:
        sum over bins of (images in it / N) * |accuracy - mean confidence|, in [0, 1].

    Raises:
        ConfigError: ``n_bins`` is below 1.
        DataError: The arrays do not fit each other, or a row is no distribution.

    Source:
        Guo et al., ICML 2017, equation 3 (top label, bins of equal width).
    """
    return top_calibration_error(*_top(probabilities, labels), n_bins)


def top_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> float:
    """The expected calibration error where only the probability of each image's answer is known.

    Args:
        confidence: (N,) probabilities of the top class, in [0, 1], N >= 1.
        correct: (N,) whether that class is the true one.
        n_bins: B, at least 1.

    Returns:
        As ``expected_calibration_error``.

    Raises:
        ConfigError: ``n_bins`` is below 1.
        DataError: The lengths differ, there is no image, or a value is no probability.
    """
    _, counts, confidence_sums, correct_sums = _bins(*_sure_and_right(confidence, correct), n_bins)
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


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T for which softmax(logits / T) fits images that were kept out of training.

    With s the spread of the logits (their root mean square, each row less its mean) and T0 = s / 2.5, it minimises

        sum over images of -log softmax(logits / T)[label]   +   (T0/T - 1 + log(T/T0))

    over T in [s e^-9, s e^9]. The first term alone is temperature scaling. On few images it can be absurd: where all
    are right it asks for T = 0, boundless certainty. The second term is 0 at T = T0, positive elsewhere, and weighs
    about as much as a handful of images. Zero-shot CLIP's logits have a spread of about 2.5, so there T0 is about 1;
    logits of another scale are as good: multiplied by a they get a times the temperature, and the same probabilities.
    Both terms are convex in 1/T, so there is one minimum, and the answer is the same every time.

    Args:
        logits: (N, C) scores as they enter the softmax, at any scale. N may be 0.
        labels: (N,) true classes, 0..C-1.

    Returns:
        T, above 0. It is 1, no change, if there is no image, or if no image's logits tell the classes apart.

    Raises:
        DataError: The arrays do not fit each other, or a logit is not finite.

    Source:
        Guo et al., ICML 2017, section 4.2, for the first term.
    """
    scores = checked_scores(logits, "logits")
    truth = checked_labels(labels, *scores.shape)
    spread = _spread(scores)
    if spread == 0:
        return 1.0
    best = minimize_scalar(
        lambda log_t: _temperature_loss(scores / spread, truth, float(log_t)),
        bounds=(-LOG_RANGE, LOG_RANGE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(spread * np.exp(best.x))


def _spread(scores: Floats) -> float:
    """The root mean square of the scores, each row less its mean; 0 where there is no row."""
    if scores.size == 0:
        return 0.0
    centred = scores - scores.mean(axis=1, keepdims=True)  # (N, C)
    largest = float(np.abs(centred).max())
    if largest <= np.finfo(np.float64).eps * float(np.abs(scores).max()):  # equal but for rounding
        return 0.0
    return largest * float(np.sqrt(np.mean((centred / largest) ** 2)))


def _temperature_loss(scores: Floats, truth: Ints, log_t: float) -> float:
    """The sum above, for scores of spread 1."""
    inverse = float(np.exp(-log_t))
    of_truth = log_softmax(scores * inverse, axis=1)[np.arange(len(truth)), truth]
    prior = inverse / USUAL_SPREAD - 1 + log_t + float(np.log(USUAL_SPREAD))
    return float(-of_truth.sum()) + prior


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
