"""Counting correct and wrong answers. N images, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blocklora.metrics.checks import Ints
from blocklora.metrics.intervals import wilson_interval

__all__ = ["ClassResult", "confusion_counts", "confusion_matrix", "mean_class_accuracy", "per_class"]


@dataclass(frozen=True)
class ClassResult:
    """How one class was answered. A share of nothing is None.

    Attributes:
        class_name: Its name.
        n_test: Its test images.
        n_predicted: The test images that were taken for it.
        accuracy: The share of its images that were recognised (recall), in [0, 1].
        accuracy_interval: 95%, Wilson.
        precision: The share of the images taken for it that belong to it, in [0, 1].
        zero_shot_accuracy: Its recall before the model was adapted; None also if that is not known.
    """

    class_name: str
    n_test: int
    n_predicted: int
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    precision: float | None
    zero_shot_accuracy: float | None


def confusion_counts(labels: Ints, predicted: Ints, n_classes: int) -> tuple[tuple[int, int, int], ...]:
    """How often each class was taken for each, without the pairs that never happened: at most N of C * C.

    Args:
        labels: (N,) true classes, 0..C-1.
        predicted: (N,) predicted classes, 0..C-1.
        n_classes: C.

    Returns:
        (true class, predicted class, images), sorted by the classes; the images are at least 1.
    """
    cells, counts = np.unique(labels * n_classes + predicted, return_counts=True)
    places = zip((cells // n_classes).tolist(), (cells % n_classes).tolist(), counts.tolist(), strict=True)
    return tuple(places)


def confusion_matrix(counts: Sequence[tuple[int, int, int]], n_classes: int) -> Ints:
    """The counts as a matrix, for few classes: at 5,000 it takes 200 MB.

    Args:
        counts: What ``confusion_counts`` gives.
        n_classes: C.

    Returns:
        (C, C) images: rows are the true classes, columns the predicted ones.
    """
    matrix = np.zeros((n_classes, n_classes), dtype=np.int64)
    for label, predicted, n in counts:
        matrix[label, predicted] = n
    return matrix


def mean_class_accuracy(classes: Sequence[ClassResult]) -> float:
    """The recall of the classes that have a test image, averaged ("balanced accuracy").

    Args:
        classes: What ``per_class`` gives, at least one with a test image.

    Returns:
        A value in [0, 1].
    """
    return float(np.mean([row.accuracy for row in classes if row.accuracy is not None]))


def per_class(
    labels: Ints, predicted: Ints, class_names: Sequence[str], zero_shot_labels: Ints | None = None
) -> tuple[ClassResult, ...]:
    """How each class was answered, in the order of the class names.

    Args:
        labels: (N,) true classes, 0..C-1.
        predicted: (N,) predicted classes, 0..C-1.
        class_names: C names.
        zero_shot_labels: (N,) what the model predicted before it was adapted, if that is known.

    Returns:
        C results.
    """
    n_classes = len(class_names)
    n_test, n_predicted = (np.bincount(x, minlength=n_classes).tolist() for x in (labels, predicted))
    n_correct = _correct(labels, predicted, n_classes)
    before = None if zero_shot_labels is None else _correct(labels, zero_shot_labels, n_classes)
    return tuple(
        ClassResult(
            class_name=name,
            n_test=n_test[c],
            n_predicted=n_predicted[c],
            accuracy=_share(n_correct[c], n_test[c]),
            accuracy_interval=wilson_interval(n_correct[c], n_test[c]) if n_test[c] else None,
            precision=_share(n_correct[c], n_predicted[c]),
            zero_shot_accuracy=None if before is None else _share(before[c], n_test[c]),
        )
        for c, name in enumerate(class_names)
    )


def _correct(labels: Ints, predicted: Ints, n_classes: int) -> list[int]:
    """(C,) the images of each class that were recognised."""
    counts: list[int] = np.bincount(labels[labels == predicted], minlength=n_classes).tolist()
    return counts


def _share(n: int, of: int) -> float | None:
    return n / of if of else None
