"""Pure functions on numpy arrays: accuracy, calibration, intervals, and the summary that a report shows."""

from blocklora.metrics.accuracy import confusion_matrix, mean_class_accuracy, per_class
from blocklora.metrics.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from blocklora.metrics.intervals import mcnemar_exact, paired_difference_interval, wilson_interval
from blocklora.metrics.summary import evaluate

__all__ = [
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
