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
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.method import CROSS_VALIDATED, FitResult, HeldOut, Job, Method
from blocklora.methods.settings import need_positive, need_whole
from blocklora.metrics import choose_candidate

__all__ = ["METHOD", "LinearProbeSettings", "fit"]

_SWEEP = np.logspace(-6, 6, 25)
_NOTHING_TO_CHOOSE_BY = 31.6
_MOST_PARTS = 5

_Features = NDArray[np.float64]  # (M, D)
_Labels = NDArray[np.int64]  # (M,)


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
    features = frozen_features(job, job.task.train)[0].double().numpy()
    labels = labels_of(job.task.train).numpy()
    choice, held_out = _chosen(job, settings, features, labels)
    c: float = choice.value  # type: ignore[assignment]
    head = _probe(features, labels, c, settings.max_iterations)
    return FitResult(
        job.classifier(head=head),
        sum(tensor.numel() for tensor in head.tensors.values()),
        {"C": choice, "kept step": Choice("converged", "fixed", "where L-BFGS stopped")},
        held_out=held_out,
    )


def _chosen(
    job: Job, settings: LinearProbeSettings, features: _Features, labels: _Labels
) -> tuple[Choice, HeldOut | None]:
    """Return C and how it was chosen, and the logits of training images that were held out to choose it."""
    if settings.c is not None:
        return Choice(settings.c, "fixed", "given"), None
    if job.task.val:
        val = frozen_features(job, job.task.val)[0]
        heads = [_probe(features, labels, c, settings.max_iterations) for c in _SWEEP]
        logits = [head.logits(val).numpy() for head in heads]
        return _best(logits, labels_of(job.task.val).numpy())[0], None
    parts = min(_MOST_PARTS, int(np.bincount(labels).min()))
    if parts < 2:
        return Choice(
            _NOTHING_TO_CHOOSE_BY, "fixed", "no validation images, and a class of one image to choose it by"
        ), None
    logits = [_held_out(features, labels, c, settings.max_iterations, parts) for c in _SWEEP]
    choice, index = _best(logits, labels, CROSS_VALIDATED)
    return choice, HeldOut(logits[index], labels)


def _best(logits: list[_Features], labels: _Labels, reason: str = "") -> tuple[Choice, int]:
    """Return the best C by the logits (M, N) that each gives, and its place in the sweep."""
    best = choose_candidate(logits, labels)
    choice = Choice(
        float(_SWEEP[best.index]),
        "validation",
        reason,
        n_images=len(labels),
        candidates=len(_SWEEP),
        score=best.accuracy,
        score_name="accuracy",
    )
    return choice, best.index


def _held_out(features: _Features, labels: _Labels, c: float, iterations: int, parts: int) -> _Features:
    """Return the logits (M, N) of every image by a probe that was fitted to the other parts."""
    found = np.empty((len(labels), labels.max() + 1))
    for others, part in StratifiedKFold(parts).split(features, labels):
        head = _probe(features[others], labels[others], c, iterations)
        found[part] = head.logits(torch.from_numpy(features[part])).numpy()
    return found


def _probe(features: _Features, labels: _Labels, c: float, iterations: int) -> Head:
    """Return the linear head that logistic regression leads to."""
    model = LogisticRegression(C=c, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a huge C on separable features has no optimum
        model.fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's logit, the first one's being 0
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    tensors = {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}
    return Head("linear", tensors)


METHOD = Method(fit, LinearProbeSettings)
