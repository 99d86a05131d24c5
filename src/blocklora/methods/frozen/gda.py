"""GDA: Gaussian discriminant analysis beside the class prompts, in closed form (Wang et al., 2024).

Logits are s f . t_n + alpha (f . P mu_n - mu_n . P mu_n / 2) for a unit feature f, the unit text feature t_n of class
n and the mean mu_n of its training features. P = D ((M - 1) S + tr(S) I)^-1 is the shrunk inverse of the covariance S
within the classes (the paper's equation 4). Recipe (mrflogs/ICLR24, ``main_few_shots.py``): alpha is chosen on
validation images.
Deviations: features are those of the plain image, one a training image, not 10 augmented ones that count as images of
their own; alpha has 13 values from 1e-4 to 1e2, not 7; without validation images it is cross-validated on the training
images, and 0.01 where a class has one. With one image in every class S is zero, where the paper's formula is zero-shot;
here S then has the trace of the covariance of all features, spread evenly over all directions. The equal log priors of
the classes are left out: they move all logits alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from blocklora.classifier import Head
from blocklora.classifier.heads import linear_logits
from blocklora.core.choices import Choice
from blocklora.methods.answers import HeldOut
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.folds import choose_value, folds, out_of_fold_logits
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive

__all__ = ["METHOD", "GdaSettings", "discriminant", "fit"]

_ALPHAS = tuple(10.0 ** (i / 2) for i in range(-8, 5))  # of equals the nearest to zero-shot
_BEFOREHAND = 0.01
_NO_SPREAD = 1e-12  # of unit features: a trace below is rounding


@dataclass(frozen=True)
class GdaSettings:
    """How much the images count.

    Attributes:
        alpha: The weight of the discriminant; None chooses it on validation images, or by cross-validation. With 0
            this is zero-shot.
    """

    alpha: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_positive(self, "alpha", zero=True)


def fit(job: Job, settings: GdaSettings) -> FitResult:
    """Compute means and covariance, and choose alpha."""
    features = frozen_features(job, job.task.train)[0].double()  # (M, D)
    labels, texts = labels_of(job.task.train), job.scale * job.written_classes.double()
    alpha, choice, held_out = _chosen(job, settings, features, labels, texts)
    head = _head(features, labels, texts, alpha)
    choices = {"alpha": choice, "kept step": Choice(0, "fixed", "nothing was trained")}
    return FitResult(job.classifier(head=head), 0, choices, held_out=held_out, features=features)


def _chosen(
    job: Job, settings: GdaSettings, features: Tensor, labels: Tensor, texts: Tensor
) -> tuple[float, Choice, HeldOut | None]:
    """Return alpha, how it was chosen, and the logits of the training images that were held out to choose it."""
    if settings.alpha is not None:
        return settings.alpha, Choice(settings.alpha, "fixed", "given"), None

    def discriminated(fit_to: Tensor, fit_labels: Tensor, inputs: Tensor) -> Tensor:
        return linear_logits(inputs, *discriminant(fit_to, fit_labels, len(texts)))

    @cache
    def of_held_out() -> Tensor:
        return out_of_fold_logits(
            folds(labels), lambda to, out: discriminated(features[to], labels[to], features[out])
        )

    @cache
    def of_others(inputs: Tensor) -> Tensor:
        return discriminated(features, labels, inputs.double())

    return choose_value(
        job,
        _ALPHAS,
        beforehand=_BEFOREHAND,
        logits=lambda inputs, alpha: inputs.double() @ texts.T + alpha * of_others(inputs),
        held_out=lambda alpha: features @ texts.T + alpha * of_held_out(),
        fold_head=lambda alpha, to: _head(features[to], labels[to], texts, alpha),
    )


def _head(features: Tensor, labels: Tensor, texts: Tensor, alpha: float) -> Head:
    """Return the sum of zero-shot and the discriminant of some images."""
    weight, bias = discriminant(features, labels, len(texts))
    return Head("linear", {"weight": (texts + alpha * weight).float(), "bias": (alpha * bias).float()})


def discriminant(features: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return what the discriminant's logits are made of: weights P mu_n (N, D) and biases -mu_n . P mu_n / 2 (N,).

    Args:
        features: Unit features (M, D), float64.
        labels: Their labels (M,); every class has one or more.
        n_classes: N.
    """
    means = torch.stack([features[labels == n].mean(dim=0) for n in range(n_classes)])  # (N, D)
    within = features - means[labels]
    weight = _whitened(within, features - features.mean(dim=0), means)
    return weight, -(weight * means).sum(dim=1) / 2


def _whitened(within: Tensor, around_all: Tensor, means: Tensor) -> Tensor:
    """Return the class means times P (N, D).

    Args:
        within: Features less the mean of their class (M, D).
        around_all: Features less the mean of all (M, D); they count where ``within`` is zero.
        means: Of the classes (N, D).
    """
    m, d = within.shape
    scatter = within.T @ within  # (M - 1) S
    trace = float(scatter.trace()) / (m - 1)
    if trace > _NO_SPREAD:
        shrunk = scatter + trace * torch.eye(d, dtype=scatter.dtype)
        solved: Tensor = torch.linalg.solve(shrunk, means.T)
        return d * solved.T
    trace = float(around_all.square().sum()) / (m - 1)
    if trace > _NO_SPREAD:
        return d * means / ((m - 1) * trace / d + trace)
    return torch.zeros_like(means)  # all images look the same, and tell nothing


METHOD = Method(fit, GdaSettings, prompts="trained with", refits=True)
