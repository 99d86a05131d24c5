"""Images that are unlike the others, and labels that follow from how the images were made.

Axes: M = images, K = neighbours. Thresholds that depend on the data use the modified z-score: the distance from the
median in units of the median absolute deviation (Iglewicz & Hoaglin, 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from blocklora.findings.properties import Properties

__all__ = ["PROPERTIES", "blank", "blurry", "dark", "far_away", "long", "tell_tale", "tiny"]

_ONE_COLOUR = 4.0  # levels of 255: below it nothing can be seen
_DARK = 50.0  # 95% of the pixels are below this level
_SOFT = 100.0  # the variance of the Laplacian below which an image may be called blurry
_Z = 3.5
_LONG = 3.0  # of longer to shorter side
_LEAF, _FEWEST, _GAIN = 5, 40, 0.3

PROPERTIES: dict[str, Callable[[Properties], float]] = {
    "width": lambda found: float(found.width),
    "height": lambda found: float(found.height),
    "shape (width by height)": lambda found: found.width / found.height,
    "brightness": lambda found: found.brightness,
    "contrast": lambda found: found.spread,
    "sharpness": lambda found: found.sharpness,
}
"""What a label should not follow from."""


def blank(found: Properties) -> float:
    """Return a score from 0 to 1 where an image is one colour all over, else 0."""
    return max(0.0, 1 - found.spread / _ONE_COLOUR)


def dark(found: Properties) -> float:
    """Return a score from 0 to 1 where 95% of an image's pixels are nearly black, else 0."""
    return max(0.0, 1 - found.highlight / _DARK)


def blurry(found: Sequence[Properties]) -> NDArray[np.float64]:
    """Return a score (M,) above 0 where the Laplacian's variance is small, and far smaller than in the others."""
    values = np.array([one.sharpness for one in found])
    low = _z(-np.log(values + 1)) >= _Z
    return np.where(low & (values < _SOFT), 1 - values / _SOFT, 0.0)


def tiny(found: Sequence[Properties], side: int) -> NDArray[np.float64]:
    """Return a score (M,) above 0 where the shorter side is less than half of the model's, and most are larger.

    Args:
        found: Of each image (M,).
        side: Of the model's square, in pixels.
    """
    values = np.array([min(one.width, one.height) for one in found])
    if np.median(values) < side:
        return np.zeros(len(found))
    return np.maximum(0.0, 1 - 2 * values / side)


def long(found: Sequence[Properties]) -> NDArray[np.float64]:
    """Return a score (M,) above 0 where one side is more than three times the other, and in most images not."""
    values = np.array([max(one.width, one.height) / min(one.width, one.height) for one in found])
    odd = values > _LONG * max(1.0, float(np.median(values)) / 1.5)
    return np.where(odd, 1 - _LONG / values, 0.0)


def far_away(cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a score (M,) above 0 for images whose nearest others are far away, compared with those of the others.

    Args:
        cosines: Of each image with its K nearest others (M, K); the score is the mean distance 1 - cosine, from 0 to 1.
    """
    if len(cosines) < 4 or not cosines.shape[1]:
        return np.zeros(len(cosines))
    distance = 1 - cosines.astype(np.float64).mean(axis=1)
    return np.where(_z(np.log(np.maximum(distance, 1e-6))) >= _Z, np.clip(distance, 1e-6, 1), 0.0)


def tell_tale(found: Sequence[Properties], labels: NDArray[np.int64]) -> list[tuple[str, float, float]]:
    """Find properties of the images from which alone a small tree tells the labels of others.

    Args:
        found: Of each image (M,).
        labels: Their labels (M,).

    Returns:
        (property, balanced accuracy, that of a guess), the highest accuracy first, where the tree of at least five
        images a leaf closes three tenths of the gap between a guess and no mistake, two standard errors allowed for.
        Nothing for fewer than 40 images, fewer than two a class, or a single class.
    """
    n = len(np.unique(labels))
    if len(found) < max(_FEWEST, 2 * n) or n < 2:
        return []
    tell = []
    for name, read in PROPERTIES.items():
        values = np.array([[read(one)] for one in found])
        if np.ptp(values) == 0:
            continue
        tree = DecisionTreeClassifier(min_samples_leaf=_LEAF, class_weight="balanced", random_state=0)
        guessed = cross_val_predict(tree, values, labels, cv=KFold(5, shuffle=True, random_state=0))
        accuracy = float(balanced_accuracy_score(labels, guessed))
        error = 2 * float(np.sqrt(accuracy * (1 - accuracy) / len(found)))
        if accuracy - error > 1 / n + _GAIN * (1 - 1 / n):
            tell.append((name, accuracy, 1 / n))
    return sorted(tell, key=lambda row: -row[1])


def _z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the modified z-scores of values (M,)."""
    away = values - np.median(values)
    spread = float(np.median(np.abs(away)))
    if spread == 0:  # half of the values are equal: the mean distance takes its place, as the source has it
        spread = float(np.abs(away).mean()) * 0.6745 * 1.253314
    return 0.6745 * away / spread if spread else np.zeros(len(values))
