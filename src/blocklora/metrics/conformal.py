"""Sets of classes that hold the true one as often as was asked for. M images, C classes, n calibration images.

Every score here is larger the stranger a class is for an image. A class is in an image's set unless too many of the
calibration images were less strange with their own true class. With one classifier, calibrated on images that it
has not seen, this is split conformal prediction; with the classifiers of a cross-validation it is CV+.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics.checks import Floats, Ints, checked_labels, checked_scores

__all__ = [
    "SCORES",
    "CalibrationPart",
    "SetScore",
    "fewest_images",
    "guaranteed_coverage",
    "prediction_sets",
    "strangeness",
]

SetScore = Literal["lac", "aps", "raps"]
"""How strange a class is: see ``SCORES``."""

PENALTY, FREE_CLASSES = (
    0.1,
    2,
)  # of RAPS: for every class after the second; fixed, as choosing them would cost images
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CalibrationPart:
    """What one classifier said of the images to judge, and of calibration images that it has not seen.

    Attributes:
        test: (M, C) strangeness of every class for each image to judge.
        calibration: (n_k,) strangeness of the true class of each calibration image.
        labels: (n_k,) true classes of these.
    """

    test: Floats
    calibration: Floats
    labels: Ints


def strangeness(logits: ArrayLike, score: SetScore = "lac") -> Floats:
    """How strange each class is for each image.

    Args:
        logits: (M, C) as they enter the softmax, not divided by a temperature: APS makes larger sets of calibrated
            probabilities than of raw ones (Dabah and Tirer, 2024), and a temperature fitted to the calibration
            images would break their likeness to new ones.
        score: A key of ``SCORES``.

    Returns:
        (M, C); the larger, the stranger.

    Raises:
        ConfigError: There is no such score.
        DataError: The logits are no finite matrix.
    """
    if score not in SCORES:
        raise ConfigError(f"score '{score}': expected one of {', '.join(SCORES)}.")
    return SCORES[score](log_softmax(checked_scores(logits, "logits"), axis=1))


def prediction_sets(
    parts: Sequence[CalibrationPart], coverage: float, *, by_class: bool = False
) -> NDArray[np.bool_]:
    """Which classes are in the set of each image.

    Args:
        parts: One for split conformal prediction; one a fold for CV+.
        coverage: How often the true class should be in the set, strictly between 0 and 1.
        by_class: Whether each class is judged by its own calibration images where it has ``fewest_images`` or more,
            so that the coverage is meant for each of them. Classes of fewer images are judged by all images.

    Returns:
        (M, C). With too few images (``fewest_images``) every class is in every set. A set may be empty: then every
        class is stranger than the true classes of most calibration images were.

    Raises:
        ConfigError: The coverage is out of range.
        DataError: There is no part, or arrays do not fit each other.

    Source:
        Vovk et al., 2005, for one part; Romano et al., Classification with Valid and Adaptive Coverage, NeurIPS
        2020, equation 12, for several.
    """
    _check_coverage(coverage)
    _check_parts(parts)
    sets = _unusual(parts) < _most_usual(sum(len(part.calibration) for part in parts), coverage)
    if by_class:
        counts = np.bincount(np.concatenate([part.labels for part in parts]), minlength=sets.shape[1])
        for c in np.flatnonzero(counts >= fewest_images(coverage)).tolist():
            own = [_of_class(part, c) for part in parts]
            sets[:, c] = _unusual(own)[:, 0] < _most_usual(int(counts[c]), coverage)
    return sets


def fewest_images(coverage: float) -> int:
    """The fewest calibration images with which a set can leave a class out: the least n >= 1 / alpha - 1.

    Raises:
        ConfigError: The coverage is not strictly between 0 and 1.
    """
    _check_coverage(coverage)
    return max(1, ceil(1 / (1 - coverage) - 1 - _ROUNDING))


def guaranteed_coverage(n_images: int, coverage: float, folds: int = 1) -> float:
    """The coverage that is proven, whatever the classifier, where new images are like the calibration images.

    Args:
        n_images: n, of all parts together.
        coverage: 1 - alpha, strictly between 0 and 1.
        folds: K parts; 1 is split conformal prediction.

    Returns:
        1 - alpha for one part; 1 - 2 alpha - min(2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)) for CV+, at least 0.

    Source:
        Barber et al., Predictive inference with the jackknife+, Annals of Statistics 49 (2021), theorem 4.
    """
    _check_coverage(coverage)
    if folds == 1:
        return coverage
    k, n = folds, n_images
    short = min(2 * (1 - 1 / k) / (n / k + 1), (1 - k / n) / (k + 1))
    return max(0.0, 1 - 2 * (1 - coverage) - max(short, 0.0))


def _least_probable(log_shares: Floats) -> Floats:
    """LAC (Sadinle et al., 2019): -log p, which orders classes as 1 - p does, and does not round to 1."""
    return -log_shares


def _mass_above(log_shares: Floats) -> Floats:
    """APS (Romano et al., 2020), not randomised: the probability of the class and of all that are more probable."""
    order = np.argsort(-log_shares, axis=1, kind="stable")
    sums = np.cumsum(np.exp(np.take_along_axis(log_shares, order, axis=1)), axis=1)
    found = np.empty_like(sums)
    np.put_along_axis(found, order, sums, axis=1)
    return found


def _regularised(log_shares: Floats) -> Floats:
    """RAPS (Angelopoulos et al., 2021): APS, and a penalty for every class after the first few."""
    ranks = np.argsort(np.argsort(-log_shares, axis=1, kind="stable"), axis=1)  # 0 is the most probable
    return _mass_above(log_shares) + PENALTY * np.maximum(0, ranks + 1 - FREE_CLASSES)


SCORES: dict[SetScore, Callable[[Floats], Floats]] = {
    "lac": _least_probable,
    "aps": _mass_above,
    "raps": _regularised,
}
"""Functions of log-probabilities (M, C). ``lac`` makes the smallest sets on average; with ``aps`` sets grow more where
an image is hard; ``raps`` is aps with fewer classes of small probability."""


def _most_usual(n: int, coverage: float) -> int:
    """How many of n calibration images may be less strange: fewer than ceil((n + 1) coverage)."""
    return ceil((n + 1) * coverage - _ROUNDING)


def _unusual(parts: Sequence[CalibrationPart]) -> Ints:
    """(M, C) how many calibration images are less strange with their class than the image with each class."""
    less = [np.searchsorted(np.sort(part.calibration), part.test, side="left") for part in parts]
    return np.asarray(sum(less), dtype=np.int64)


def _of_class(part: CalibrationPart, c: int) -> CalibrationPart:
    own = part.labels == c
    return CalibrationPart(part.test[:, [c]], part.calibration[own], part.labels[own])


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise ConfigError(f"coverage {coverage}: expected a number above 0 and below 1, such as 0.9.")


def _check_parts(parts: Sequence[CalibrationPart]) -> None:
    if not parts:
        raise DataError("There is no calibration image; expected scores of at least one.")
    for part in parts:
        checked_labels(part.labels, len(part.calibration), part.test.shape[1])
        if part.test.shape != parts[0].test.shape:
            raise DataError(f"test scores of shape {part.test.shape}; expected {parts[0].test.shape}.")
