"""Pure functions on numpy arrays: accuracy, calibration, intervals, and the evaluation that a report shows."""

from blocklora.metrics.accuracy import (
    ClassResult,
    confusion_counts,
    confusion_matrix,
    mean_class_accuracy,
    per_class,
)
from blocklora.metrics.calibration import (
    Reliability,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from blocklora.metrics.choose import Winner, choose_candidate
from blocklora.metrics.intervals import mcnemar_exact, paired_difference_interval, wilson_interval
from blocklora.metrics.summary import Difference, Evaluation, evaluate

__all__ = [
    "ClassResult",
    "Difference",
    "Evaluation",
    "Reliability",
    "Winner",
    "choose_candidate",
    "confusion_counts",
    "confusion_matrix",
    "evaluate",
    "expected_calibration_error",
    "fit_temperature",
    "mcnemar_exact",
    "mean_class_accuracy",
    "negative_log_likelihood",
    "paired_difference_interval",
    "per_class",
    "reliability_bins",
    "wilson_interval",
]
