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
    Calibration,
    Reliability,
    brier_score,
    expected_calibration_error,
    log_loss,
    negative_log_likelihood,
    reliability_bins,
    top_calibration_error,
    top_reliability_bins,
)
from blocklora.metrics.choose import Winner, choose_candidate
from blocklora.metrics.confidence import (
    Confidence,
    Sets,
    Unknown,
    judge_confidence,
    judge_sets,
    judge_unknown,
)
from blocklora.metrics.conformal import (
    CalibrationPart,
    SetScore,
    fewest_images,
    guaranteed_coverage,
    prediction_sets,
    strangeness,
)
from blocklora.metrics.intervals import (
    cross_validated_interval,
    mcnemar_exact,
    paired_difference_interval,
    wilson_interval,
)
from blocklora.metrics.mixing import mixture_weights
from blocklora.metrics.paired import PairedAnswers, holm, pair_answers
from blocklora.metrics.selective import (
    Answered,
    RiskCoverage,
    answered_above,
    risk_coverage,
    threshold_for,
)
from blocklora.metrics.summary import Difference, Evaluation, evaluate, judge
from blocklora.metrics.temperature import fit_temperature
from blocklora.metrics.unknown import UnknownStudy, known_p_values, study_unknown, together, unlikeness

__all__ = [
    "Answered",
    "Answers",
    "Calibration",
    "CalibrationPart",
    "ClassResult",
    "Confidence",
    "Difference",
    "Evaluation",
    "PairedAnswers",
    "Reliability",
    "RiskCoverage",
    "SetScore",
    "Sets",
    "Unknown",
    "UnknownStudy",
    "Winner",
    "answered_above",
    "answers",
    "brier_score",
    "choose_candidate",
    "confusion_counts",
    "confusion_matrix",
    "cross_validated_interval",
    "evaluate",
    "expected_calibration_error",
    "fewest_images",
    "fit_temperature",
    "guaranteed_coverage",
    "holm",
    "joined_answers",
    "judge",
    "judge_confidence",
    "judge_sets",
    "judge_unknown",
    "known_p_values",
    "log_loss",
    "mcnemar_exact",
    "mean_class_accuracy",
    "mixture_weights",
    "negative_log_likelihood",
    "pair_answers",
    "paired_difference_interval",
    "per_class",
    "prediction_sets",
    "reliability_bins",
    "risk_coverage",
    "strangeness",
    "study_unknown",
    "threshold_for",
    "together",
    "top_calibration_error",
    "top_classes",
    "top_reliability_bins",
    "unlikeness",
    "wilson_interval",
]
