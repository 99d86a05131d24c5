"""Counting right and wrong answers. N pictures, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blocklora.metrics.checks import Ints
from blocklora.metrics.intervals import wilson_interval

__all__ = ["confusion_matrix", "mean_class_accuracy", "per_class"]


def confusion_matrix(labels: Ints, predicted: Ints, n_classes: int) -> Ints:
    """How often each class was taken for each other.

    Args:
        labels: (N,) true classes, 0..C-1.
        predicted: (N,) predicted classes, 0..C-1.
        n_classes: C.

    Returns:
        (C, C) counts: rows are the true classes, columns the predicted ones.
    """
    cells = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)  # (C * C,)
    return cells.reshape(n_classes, n_classes)


def mean_class_accuracy(confusion: Ints) -> float:
    """The accuracy within each class, averaged over the classes that the test holds ("balanced accuracy").

    Args:
        confusion: (C, C) counts, rows are the true classes, at least one of them above 0.

    Returns:
        A value in [0, 1].
    """
    totals = confusion.sum(axis=1)
    present = totals > 0
    return float(np.mean(np.diag(confusion)[present] / totals[present]))


def per_class(
    confusion: Ints, class_names: Sequence[str], zero_shot_confusion: Ints | None = None
) -> list[dict[str, Any]]:
    """One JSON-ready row for each class, in the order of the class names.

    Args:
        confusion: (C, C) counts, rows are the true classes.
        class_names: C names.
        zero_shot_confusion: The same of the zero-shot model, if there is one.

    Returns:
        Rows of ``class_name``; ``n_test``, its test pictures; ``n_predicted``, the pictures taken for it;
        ``accuracy``, the share of its pictures that were found (recall); ``accuracy_interval``, 95%, Wilson;
        ``precision``, the share of the pictures taken for it that are it; and ``zero_shot_accuracy``.
        A share of nothing is None.
    """
    rows = []
    for index, class_name in enumerate(class_names):
        n_test, n_predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        n_correct = int(confusion[index, index])
        zero_shot = None if zero_shot_confusion is None else int(zero_shot_confusion[index, index])
        rows.append(
            {
                "class_name": class_name,
                "n_test": n_test,
                "n_predicted": n_predicted,
                "accuracy": n_correct / n_test if n_test else None,
                "accuracy_interval": list(wilson_interval(n_correct, n_test)) if n_test else None,
                "precision": n_correct / n_predicted if n_predicted else None,
                "zero_shot_accuracy": zero_shot / n_test if zero_shot is not None and n_test else None,
            }
        )
    return rows
