"""The ways to turn a few labelled images into a classifier, and the one way to call them."""

from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.answers import HeldOut
from blocklora.methods.config import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    FitConfig,
    check_parameters,
    fit_config,
    model_defaults,
)
from blocklora.methods.fitting import Fit, fit_classifier
from blocklora.methods.method import EngineUse, FitResult, Job, Method, Task, last_step
from blocklora.methods.new_class import check_extends, with_new_class
from blocklora.methods.prepare import Prepared, prepare, prepared_for
from blocklora.methods.settings import make_settings, parse_settings, settings_json
from blocklora.methods.table import METHODS, check_shares, find_method

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_PROMPT",
    "METHODS",
    "AdapterSettings",
    "EngineUse",
    "Fit",
    "FitConfig",
    "FitResult",
    "HeldOut",
    "Job",
    "Method",
    "Prepared",
    "Task",
    "check_extends",
    "check_parameters",
    "check_shares",
    "find_method",
    "fit_classifier",
    "fit_config",
    "last_step",
    "make_settings",
    "model_defaults",
    "parse_settings",
    "prepare",
    "prepared_for",
    "settings_json",
    "with_new_class",
]
