"""A linear probe: logistic regression on frozen image features (Radford et al., 2021, section 3.2).

Recipe: scikit-learn's L-BFGS with an L2 penalty, C swept over 1e-6 .. 1e6 and chosen on validation images.
Deviations: 25 values of C instead of 96; equal accuracies are told apart by the log loss at the best temperature;
features are unit vectors, so without validation images C is 31.6, which is CLIP's published 0.316 for features whose
norm is about 10.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive, need_whole
from blocklora.metrics import choose_candidate

__all__ = ["METHOD", "LinearProbeSettings", "fit"]

_SWEEP = np.logspace(-6, 6, 25)
_WITHOUT_VALIDATION = 31.6


@dataclass(frozen=True)
class LinearProbeSettings:
    """How to fit the probe.

    Attributes:
        c: The inverse strength of the penalty; None chooses it on validation images.
        max_iterations: Of L-BFGS.
    """

    c: float | None = None
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        """Check every value."""
        need_positive(self, "c")
        need_whole(self, "max_iterations")


def fit(job: Job, settings: LinearProbeSettings) -> FitResult:
    """Fit the probe."""
    features = frozen_features(job, job.task.train)[0].double().numpy()  # (M, D)
    labels = labels_of(job.task.train).numpy()

    def probe(c: float) -> Head:
        return _probe(features, labels, c, settings.max_iterations)

    head, choice = _chosen(job, settings, probe)
    return FitResult(
        job.classifier(head=head),
        sum(tensor.numel() for tensor in head.tensors.values()),
        {"C": choice, "kept step": Choice("converged", "fixed", "where L-BFGS stopped")},
    )


def _chosen(job: Job, settings: LinearProbeSettings, probe: Callable[[float], Head]) -> tuple[Head, Choice]:
    """Return the probe to keep, and how its C was chosen."""
    if settings.c is not None:
        return probe(settings.c), Choice(settings.c, "fixed", "given")
    if not job.task.val:
        return probe(_WITHOUT_VALIDATION), Choice(
            _WITHOUT_VALIDATION, "fixed", "there are no validation images to choose it by"
        )
    val = frozen_features(job, job.task.val)[0]
    heads = [probe(float(c)) for c in _SWEEP]
    best = choose_candidate([head.logits(val).numpy() for head in heads], labels_of(job.task.val).numpy())
    choice = Choice(
        float(_SWEEP[best.index]),
        "validation",
        n_images=len(job.task.val),
        candidates=len(_SWEEP),
        score=best.accuracy,
        score_name="accuracy",
    )
    return heads[best.index], choice


def _probe(features: NDArray[np.float64], labels: NDArray[np.int64], c: float, iterations: int) -> Head:
    """Return the linear head that logistic regression on features (M, D) leads to."""
    model = LogisticRegression(C=c, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a huge C on separable features has no optimum
        model.fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's logit, the first one's being 0
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    rows = np.ascontiguousarray(weight)  # as a file holds it: another layout would give other last bits
    tensors = {"weight": torch.from_numpy(rows).float(), "bias": torch.from_numpy(bias).float()}
    return Head("linear", tensors)


METHOD = Method(fit, LinearProbeSettings)
