"""Pure functions on numpy arrays: accuracy, calibration, intervals, and the evaluation that a report shows."""

from blocklora.metrics.accuracy import (
    ClassResult,
    confusion_counts,
    confusion_matrix,
    mean_class_accuracy,
    per_class,
)
from blocklora.metrics.answers import Answers, answers, joined_answers, top_classes
from blocklora.metrics.calibration import (
    Reliability,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    negative_log_likelihood,
    reliability_bins,
    top_calibration_error,
    top_reliability_bins,
)
from blocklora.metrics.choose import Winner, choose_candidate
from blocklora.metrics.intervals import mcnemar_exact, paired_difference_interval, wilson_interval
from blocklora.metrics.paired import PairedAnswers, holm, pair_answers
from blocklora.metrics.summary import Difference, Evaluation, evaluate, judge

__all__ = [
    "Answers",
    "ClassResult",
    "Difference",
    "Evaluation",
    "PairedAnswers",
    "Reliability",
    "Winner",
    "answers",
    "choose_candidate",
    "confusion_counts",
    "confusion_matrix",
    "evaluate",
    "expected_calibration_error",
    "fit_temperature",
    "holm",
    "joined_answers",
    "judge",
    "log_loss",
    "mcnemar_exact",
    "mean_class_accuracy",
    "negative_log_likelihood",
    "pair_answers",
    "paired_difference_interval",
    "per_class",
    "reliability_bins",
    "top_calibration_error",
    "top_classes",
    "top_reliability_bins",
    "wilson_interval",
]
