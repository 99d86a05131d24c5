"""Answering only where the model is sure: how many images that leaves, and how often it is right. N images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtrc

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics.checks import Floats
from blocklora.metrics.intervals import wilson_interval

__all__ = ["Answered", "RiskCoverage", "answered_above", "risk_coverage", "threshold_for"]

MOST_POINTS = 50
DOUBT = 0.1  # the chance that a threshold for a wanted accuracy does not reach it


@dataclass(frozen=True)
class Answered:
    """What is left where answers below a probability are withheld.

    Attributes:
        threshold: The least probability of an answer.
        answered: The share of the images that are answered, in [0, 1].
        accuracy: The share of right answers among them; None where there is none.
        interval: 95% of it, Wilson.
    """

    threshold: float
    answered: float
    accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class RiskCoverage:
    """The accuracy of the surest answers, for every share of images that are answered.

    Attributes:
        points: (threshold, share answered, accuracy), at most 50, from the surest answers to all.
        area: The mean of 1 - accuracy over all shares (AURC; Geifman et al., 2019); the smaller, the better.
    """

    points: tuple[tuple[float, float, float], ...]
    area: float


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Return how accuracy falls as more images are answered, the surest first.

    Args:
        confidence: (N,) probabilities of the answers, N >= 1.
        correct: (N,) whether each is right.

    Raises:
        DataError: The lengths differ, or there is no image.

    Source:
        Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.
    """
    sure, right = _checked(confidence, correct)
    order = np.argsort(-sure, kind="stable")
    last = np.flatnonzero(
        np.append(np.diff(sure[order]) != 0, True)
    )  # images of equal confidence come together
    accuracy = np.cumsum(right[order])[last] / (last + 1)
    widths = np.diff(last, prepend=-1) / len(sure)
    keep = np.unique(np.linspace(0, len(last) - 1, min(MOST_POINTS, len(last))).round().astype(int))
    return RiskCoverage(
        points=tuple(
            (float(sure[order][last[i]]), float((last[i] + 1) / len(sure)), float(accuracy[i])) for i in keep
        ),
        area=float(((1 - accuracy) * widths).sum()),
    )


def threshold_for(accuracy: float, confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """The least probability above which answers are right so often, with 90% certainty.

    Thresholds are tested from the highest down, from the one that leaves the fewest images with which all right answers
    would do, and the test stops at the first that fails: so the certainty holds for the threshold that is returned.

    Args:
        accuracy: What is wanted, strictly between 0 and 1.
        confidence: (N,) probabilities of the answers to images that were kept out of training, N >= 1.
        correct: (N,) whether each is right.

    Returns:
        The threshold; None where the images are too few, or the surest answers are too often wrong.

    Raises:
        ConfigError: The accuracy is out of range.
        DataError: The lengths differ, or there is no image.

    Source:
        Angelopoulos et al., Learn then Test, Annals of Applied Statistics 2025, fixed sequence testing with exact
        binomial p-values.
    """
    if not 0 < accuracy < 1:
        raise ConfigError(f"accuracy {accuracy}: expected a number above 0 and below 1, such as 0.95.")
    sure, right = _checked(confidence, correct)
    order = np.argsort(-sure, kind="stable")
    last = np.flatnonzero(
        np.append(np.diff(sure[order]) != 0, True)
    )  # images of equal confidence come together
    n_right = np.cumsum(right[order])[last]
    tested = accuracy ** (last + 1) <= DOUBT
    passed = bdtrc(n_right[tested] - 1, last[tested] + 1, accuracy) <= DOUBT
    n_passed = len(passed) if passed.all() else int(passed.argmin())
    return float(sure[order][last[tested][n_passed - 1]]) if n_passed else None


def answered_above(threshold: float, confidence: ArrayLike, correct: ArrayLike) -> Answered:
    """Return what is left of N images where answers below a probability are withheld.

    Raises:
        DataError: The lengths differ, or there is no image.
    """
    sure, right = _checked(confidence, correct)
    answered = sure >= threshold
    n, n_right = int(answered.sum()), int(right[answered].sum())
    return Answered(
        threshold=threshold,
        answered=n / len(sure),
        accuracy=n_right / n if n else None,
        interval=wilson_interval(n_right, n) if n else None,
    )


def _checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not len(sure):
        raise DataError(
            f"confidence of shape {sure.shape} and correct of shape {right.shape}; expected one each an image, of one "
            "image or more."
        )
    return sure, right
