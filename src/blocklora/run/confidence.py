"""How far the confidence of a classifier can be relied on: measured on test images, and said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import Classifier, chance_known, class_sets, held_out_answers, proven_coverage
from blocklora.core.errors import ConfigError
from blocklora.metrics import Answers, Confidence, judge_confidence, judge_sets, judge_unknown
from blocklora.report import alarm_sentence, measured_sentence, promise_sentence, read_metrics
from blocklora.run.folder import METRICS

__all__ = ["COVERAGE", "alarm_note", "measure_confidence", "measured_note", "promise_of"]

COVERAGE = 0.9  # of the sets of classes that are measured; any other is chosen when predicting


def measure_confidence(
    classifier: Classifier, features: Tensor, said: Answers, labels: NDArray[Any]
) -> Confidence:
    """Judge the confidence in the answers to test images.

    Args:
        classifier: What answers.
        features: Of the images, as ``Classifier.logits`` takes them, M >= 1.
        said: The answers to them.
        labels: True classes (M,).
    """
    evidence, sets, unknown = classifier.evidence, None, None
    held_out = evidence.held_out
    if held_out:
        unknown = judge_unknown(chance_known(classifier, features), evidence.unknown, held_out.how)
        sets = judge_sets(
            class_sets(classifier, features, COVERAGE),
            labels,
            COVERAGE,
            how=held_out.how,
            n_images=len(held_out.labels),
            guaranteed=proven_coverage(held_out, COVERAGE),
        )
    answers = (held_out.confidence, held_out.correct) if held_out else None
    before = classifier.with_temperature(1.0).answers(features, labels)
    return judge_confidence(before, said, labels, answers, sets, unknown)


def promise_of(classifier: Classifier, coverage: float) -> str:
    """Say what is proven of sets of classes.

    Args:
        classifier: What answers.
        coverage: How often the true class should be in a set, strictly between 0 and 1.

    Raises:
        ConfigError: The coverage is out of range.
        RunError: The classifier keeps no answers to held-out images.
    """
    held_out = held_out_answers(classifier)
    proven = proven_coverage(held_out, coverage)
    return promise_sentence(held_out.how, len(held_out.labels), coverage, proven)


def measured_note(run: Path) -> str:
    """Say that the sets of a run fell short on its test images; nothing where they did not, or nobody knows.

    Args:
        run: A RUN folder, or any other with a classifier.
    """
    if not (run / METRICS).is_file():
        return ""
    found = read_metrics(run / METRICS).confidence
    if found is None or found.sets is None or found.sets.covered_interval[1] >= found.sets.coverage:
        return ""
    return measured_sentence(found.sets)


def alarm_note(classifier: Classifier, rate: float) -> str:
    """Say how many images of the classes will be called unknown.

    Args:
        classifier: What answers.
        rate: The share that may be, strictly between 0 and 1.

    Raises:
        ConfigError: The rate is out of range.
        RunError: The classifier keeps no answers to held-out images.
    """
    if not 0 < rate < 1:
        raise ConfigError(f"false alarms {rate}: expected a number above 0 and below 1, such as 0.05.")
    held_out = held_out_answers(classifier)
    return alarm_sentence(held_out.how, len(held_out.labels), rate)
