"""All that is known about a classifier's answers to its test images: one ``Evaluation``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blocklora.core.errors import DataError
from blocklora.metrics.accuracy import ClassResult, confusion_counts, mean_class_accuracy, per_class
from blocklora.metrics.answers import Answers, answers, calibration_of_answers
from blocklora.metrics.calibration import ECE_METHOD, Reliability, top_reliability_bins
from blocklora.metrics.checks import checked_labels, checked_probabilities
from blocklora.metrics.intervals import wilson_interval
from blocklora.metrics.paired import pair_answers

__all__ = ["Difference", "Evaluation", "evaluate", "judge"]

_OLD_ECE = "15 bins of equal width"  # of files of earlier versions
_METHOD = "95% interval by Newcombe's method 10 for paired proportions; exact McNemar test"


@dataclass(frozen=True)
class Difference:
    """Adapted - zero-shot, on the same test images.

    Attributes:
        value: The difference of the accuracies, in [-1, 1].
        interval: 95%, in [-1, 1].
        p_value: Of the hypothesis that both are equally good, in (0, 1].
        only_adapted: Images that only the adapted model gets right.
        only_zero_shot: Images that only the model before gets right.
        method: How interval and p-value were computed.
    """

    value: float
    interval: tuple[float, float]
    p_value: float
    only_adapted: int
    only_zero_shot: int
    method: str = _METHOD


@dataclass(frozen=True)
class Evaluation:
    """What N test images of C classes say about a classifier. Accuracies lie in [0, 1], intervals are 95%, Wilson.

    Attributes:
        accuracy: The share of correct answers.
        accuracy_interval: Of it.
        mean_class_accuracy: The recall averaged over the classes that have a test image.
        n_test: N.
        n_correct: Correct answers.
        n_classes: C.
        ece: Expected calibration error, in [0, 1].
        nll: Mean negative log-likelihood of the true class, in nats.
        brier: Brier score, in [0, 2]; None in files of earlier versions.
        ece_method: How ``ece`` was computed.
        per_class: C results.
        confusion_counts: (true class, predicted class, images) of the pairs that happened.
        reliability: How often answers are correct at each confidence.
        zero_shot_accuracy: Before adapting; None if not known, like the next two.
        zero_shot_interval: Of it.
        difference: Adapted - zero-shot.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    mean_class_accuracy: float
    n_test: int
    n_correct: int
    n_classes: int
    ece: float
    nll: float
    per_class: tuple[ClassResult, ...]
    confusion_counts: tuple[tuple[int, int, int], ...]
    reliability: Reliability
    brier: float | None = None
    ece_method: str = ECE_METHOD
    zero_shot_accuracy: float | None = None
    zero_shot_interval: tuple[float, float] | None = None
    difference: Difference | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts as a JSON object; what was not compared with zero-shot has no such keys."""
        facts = _lists(asdict(self))
        compared = ("zero_shot_accuracy", "zero_shot_interval", "difference")
        return {key: value for key, value in facts.items() if key not in compared or value is not None}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that ``to_json`` wrote; other keys are passed over.

        Raises:
            KeyError: A key is missing.
            TypeError: An object has a key that is not known.
        """
        plain = ("accuracy", "mean_class_accuracy", "n_test", "n_correct", "n_classes", "ece", "nll")
        difference = facts.get("difference")
        return cls(
            **{key: facts[key] for key in plain},
            accuracy_interval=_pair(facts["accuracy_interval"]),
            per_class=tuple(
                ClassResult(**row | {"accuracy_interval": _maybe_pair(row["accuracy_interval"])})
                for row in facts["per_class"]
            ),
            confusion_counts=tuple(
                (label, predicted, n) for label, predicted, n in facts["confusion_counts"]
            ),
            reliability=Reliability(**{key: tuple(value) for key, value in facts["reliability"].items()}),
            brier=facts.get("brier"),
            ece_method=facts.get("ece_method", _OLD_ECE),
            zero_shot_accuracy=facts.get("zero_shot_accuracy"),
            zero_shot_interval=_maybe_pair(facts.get("zero_shot_interval")),
            difference=difference and Difference(**difference | {"interval": _pair(difference["interval"])}),
        )


def evaluate(
    probabilities: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    zero_shot_labels: ArrayLike | None = None,
) -> Evaluation:
    """Judge a classifier by its probabilities on N test images of C classes.

    Args:
        probabilities: (N, C), rows sum to 1, N >= 1. The answer is the first class of the top probability.
        labels: (N,) true classes, 0..C-1.
        class_names: C names.
        zero_shot_labels: (N,) what the model predicted for the same images before it was adapted.

    Returns:
        The evaluation; its comparison with zero-shot is None without ``zero_shot_labels``.

    Raises:
        DataError: The arrays and names do not fit each other, the test is empty, a row of probabilities does
            not sum to 1, or a label is out of range.
    """
    n_classes = checked_probabilities(probabilities).shape[1]
    if len(class_names) != n_classes:
        raise DataError(f"There are {len(class_names)} class names for {n_classes} columns of probabilities.")
    return judge(answers(probabilities, labels), labels, class_names, zero_shot_labels)


def judge(
    said: Answers,
    labels: ArrayLike,
    class_names: Sequence[str],
    zero_shot_labels: ArrayLike | None = None,
) -> Evaluation:
    """Judge a classifier by its answers to N test images of C classes; memory does not grow with N times C.

    Args:
        said: The answers, N >= 1.
        labels: (N,) true classes, 0..C-1.
        class_names: C names.
        zero_shot_labels: As ``evaluate`` takes them.

    Raises:
        DataError: The arrays do not fit each other, or a label is out of range.
    """
    predicted, n_classes = said.predicted, len(class_names)
    n_test = len(predicted)
    truth = checked_labels(labels, n_test, n_classes)
    before = None
    if zero_shot_labels is not None:
        before = checked_labels(zero_shot_labels, n_test, n_classes, "zero_shot_labels")
    figures, correct = calibration_of_answers(said, truth), predicted == truth
    n_correct = int(correct.sum())
    classes = per_class(truth, predicted, class_names, before)
    n_before = None if before is None else int((before == truth).sum())
    return Evaluation(
        accuracy=n_correct / n_test,
        accuracy_interval=wilson_interval(n_correct, n_test),
        mean_class_accuracy=mean_class_accuracy(classes),
        n_test=n_test,
        n_correct=n_correct,
        n_classes=n_classes,
        ece=figures.ece,
        nll=figures.nll,
        brier=figures.brier,
        per_class=classes,
        confusion_counts=confusion_counts(truth, predicted, n_classes),
        reliability=top_reliability_bins(said.confidence, correct),
        zero_shot_accuracy=None if n_before is None else n_before / n_test,
        zero_shot_interval=None if n_before is None else wilson_interval(n_before, n_test),
        difference=None if before is None else _difference(correct, before == truth),
    )


def _difference(now: NDArray[np.bool_], then: NDArray[np.bool_]) -> Difference:
    """Compare (N,) correct answers now with (N,) correct answers then."""
    pair = pair_answers(now, then)
    return Difference(
        value=pair.difference,
        interval=pair.interval,
        p_value=pair.p_value,
        only_adapted=pair.only_first,
        only_zero_shot=pair.only_second,
    )


def _lists(value: Any) -> Any:
    """Return a value with lists in the place of tuples, as JSON gives it back."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return low, high


def _maybe_pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else _pair(values)
