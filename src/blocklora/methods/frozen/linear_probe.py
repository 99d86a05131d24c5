"""A linear probe: logistic regression on frozen image features (Radford et al., 2021, section 3.2).

Recipe: scikit-learn's L-BFGS with an L2 penalty, C swept over 1e-6 .. 1e6 and chosen on validation images.
Deviations: 25 values of C instead of 96; equal accuracies are told apart by the log loss; without validation images
each training image is judged by a probe that was fitted without it (cross-validation in at most 5 parts, every class
in each), and the same logits set the temperature. With one image of a class there is nothing to choose by: C is 31.6,
which is CLIP's published 0.316 for features whose norm is about 10, as ours are unit vectors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.answers import HeldOut
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.folds import choose_value, folds, out_of_fold_logits
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive, need_whole

__all__ = ["METHOD", "LinearProbeSettings", "fit"]

_SWEEP: list[float] = np.logspace(-6, 6, 25).tolist()
_NOTHING_TO_CHOOSE_BY = 31.6


@dataclass(frozen=True)
class LinearProbeSettings:
    """How to fit the probe.

    Attributes:
        c: The inverse strength of the penalty; None chooses it on validation images, or by cross-validation.
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
    features = frozen_features(job, job.task.train)[0].double()  # (M, D)
    labels = labels_of(job.task.train)
    c, choice, held_out = _chosen(job, settings, features, labels)
    head = _probe(features, labels, c, settings.max_iterations)
    return FitResult(
        job.classifier(head=head),
        sum(tensor.numel() for tensor in head.tensors.values()),
        {"c": choice, "kept step": Choice("converged", "fixed", "where L-BFGS stopped")},
        held_out=held_out,
        features=features,
    )


def _chosen(
    job: Job, settings: LinearProbeSettings, features: Tensor, labels: Tensor
) -> tuple[float, Choice, HeldOut | None]:
    """Return C, how it was chosen, and the logits of the training images that were held out to choose it."""
    if settings.c is not None:
        return settings.c, Choice(settings.c, "fixed", "given"), None

    def logits(inputs: Tensor, c: float, fit_to: Tensor | slice = slice(None)) -> Tensor:
        return _probe(features[fit_to], labels[fit_to], c, settings.max_iterations).logits(inputs)

    def held_out(c: float) -> Tensor:
        return out_of_fold_logits(folds(labels), lambda to, out: logits(features[out], c, to))

    def fold_head(c: float, fit_to: Tensor) -> Head:
        return _probe(features[fit_to], labels[fit_to], c, settings.max_iterations)

    return choose_value(
        job,
        _SWEEP,
        beforehand=_NOTHING_TO_CHOOSE_BY,
        logits=logits,
        held_out=held_out,
        fold_head=fold_head,
    )


def _probe(features: Tensor, labels: Tensor, c: float, iterations: int) -> Head:
    """Return the linear head that logistic regression leads to, from features (M, D) and labels (M,)."""
    model = LogisticRegression(C=c, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a huge C on separable features has no optimum
        model.fit(features.numpy(), labels.numpy())
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's logit, the first one's being 0
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    tensors = {
        "weight": torch.from_numpy(weight).float().contiguous(),
        "bias": torch.from_numpy(bias).float(),
    }
    return Head("linear", tensors)


METHOD = Method(fit, LinearProbeSettings, refits=True)
