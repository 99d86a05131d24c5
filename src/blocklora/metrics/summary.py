"""All that is known about a classifier's answers on its test pictures, as one JSON-ready dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from blocklora.core.errors import DataError
from blocklora.metrics.accuracy import confusion_matrix, mean_class_accuracy, per_class
from blocklora.metrics.calibration import (
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from blocklora.metrics.checks import Ints, checked_labels, checked_probabilities
from blocklora.metrics.intervals import mcnemar_exact, paired_difference_interval, wilson_interval

__all__ = ["evaluate"]


def evaluate(
    probabilities: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    zero_shot_labels: ArrayLike | None = None,
) -> dict[str, Any]:
    """Judge a classifier by its probabilities on N test pictures of C classes.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1. The answer is the first class of the top probability.
        labels: (N,) true classes, 0..C-1.
        class_names: C names.
        zero_shot_labels: (N,) the answers of the model before it was adapted, to the same pictures.

    Returns:
        Only dictionaries, lists, strings, Python numbers and None; no NaN. ``accuracy`` and
        ``accuracy_interval`` [low, high] (95%, Wilson); ``mean_class_accuracy``, over the classes in the
        test; ``n_test``, ``n_correct``, ``n_classes``, ``ece``, ``nll``; ``per_class``, see the function of
        that name; ``confusion``, C rows of C counts, a row for each true class; ``reliability``, see
        ``reliability_bins``. With ``zero_shot_labels`` also ``zero_shot_accuracy``, ``zero_shot_interval``
        and ``difference``, adapted - zero-shot: ``value``, ``interval``, ``p_value``, ``only_adapted`` and
        ``only_zero_shot`` (the pictures that only one of the two gets right) and ``method``.

    Raises:
        DataError: The arrays and names do not fit each other, the test is empty, a row of probabilities does
            not sum to 1, or a label is out of range.
    """
    checked = checked_probabilities(probabilities)
    n_test, n_classes = checked.shape
    if len(class_names) != n_classes:
        raise DataError(f"There are {len(class_names)} class names for {n_classes} columns of probabilities.")
    truth = checked_labels(labels, n_test, n_classes)
    predicted = checked.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, n_classes)
    n_correct = int(np.trace(confusion))
    before = zero_shot_confusion = None
    if zero_shot_labels is not None:
        before = checked_labels(zero_shot_labels, n_test, n_classes, "zero_shot_labels")
        zero_shot_confusion = confusion_matrix(truth, before, n_classes)
    result = {
        "accuracy": n_correct / n_test,
        "accuracy_interval": list(wilson_interval(n_correct, n_test)),
        "mean_class_accuracy": mean_class_accuracy(confusion),
        "n_test": n_test,
        "n_correct": n_correct,
        "n_classes": n_classes,
        "ece": expected_calibration_error(checked, truth),
        "nll": negative_log_likelihood(checked, truth),
        "per_class": per_class(confusion, class_names, zero_shot_confusion),
        "confusion": confusion.tolist(),
        "reliability": reliability_bins(checked, truth),
    }
    return result if before is None else result | _comparison(truth, predicted, before)


def _comparison(truth: Ints, predicted: Ints, before: Ints) -> dict[str, Any]:
    """The zero-shot answers, and how the adapted answers to the same pictures differ."""
    n = len(truth)
    now, then = predicted == truth, before == truth
    both, only_now = int((now & then).sum()), int((now & ~then).sum())
    only_then, neither = int((~now & then).sum()), int((~now & ~then).sum())
    n_then = both + only_then
    return {
        "zero_shot_accuracy": n_then / n,
        "zero_shot_interval": list(wilson_interval(n_then, n)),
        "difference": {
            "value": (only_now - only_then) / n,
            "interval": list(paired_difference_interval(both, only_now, only_then, neither)),
            "p_value": mcnemar_exact(only_now, only_then),
            "only_adapted": only_now,
            "only_zero_shot": only_then,
            "method": "95% interval by Newcombe's method 10 for paired proportions; exact McNemar test",
        },
    }
