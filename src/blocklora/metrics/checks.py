"""What every metric asks of its arrays, said once. N images, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blocklora.core.errors import DataError

__all__ = ["Floats", "Ints", "checked_labels", "checked_probabilities", "checked_scores"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SUM_TOLERANCE = 1e-3  # a softmax in single precision over a thousand classes is off by about 1e-5


def checked_labels(labels: ArrayLike, n: int, n_classes: int, name: str = "labels") -> Ints:
    """The labels as integers, if they are N whole numbers in 0..C-1; else a ``DataError``."""
    array: NDArray[Any] = np.asarray(labels)
    if array.shape != (n,):
        raise DataError(f"{name} has shape {array.shape}; expected ({n},), one label for each image.")
    if n and array.dtype.kind not in "iu":
        raise DataError(f"{name} holds {array.dtype} values; expected integers, the index of each class.")
    if n and (array.min() < 0 or array.max() >= n_classes):
        wrong = array[(array < 0) | (array >= n_classes)][0]
        raise DataError(
            f"{name} holds {wrong}; expected 0 to {n_classes - 1}, as there are {n_classes} classes."
        )
    return array.astype(np.int64)


def checked_scores(scores: ArrayLike, name: str) -> Floats:
    """The scores as (N, C) doubles, if they are finite and C >= 1; else a ``DataError``."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(
            f"{name} has shape {array.shape}; expected (images, classes) with at least one class."
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise DataError(
            f"{name} holds a value that is not finite, in row {row}; the model's output is unusable."
        )
    return array


def checked_probabilities(probabilities: ArrayLike) -> Floats:
    """The probabilities as (N, C) doubles, N >= 1, if each row is a distribution; else a ``DataError``."""
    array = checked_scores(probabilities, "probabilities")
    if array.shape[0] == 0:
        raise DataError(
            "There is no image to evaluate: the test part is empty. Give at least one labelled image."
        )
    wrong = (np.abs(array.sum(axis=1) - 1) > SUM_TOLERANCE) | (array.min(axis=1) < 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"probabilities, row {row}: the sum is {array[row].sum():.6g}, the least value "
            f"{array[row].min():.6g}; expected values of 0 or more that sum to 1. Give softmax outputs."
        )
    return array
