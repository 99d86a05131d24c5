"""Prototypes: class features between what a class is called and what its images look like.

Class features are (1 - w) t_n + w mu_n, normalised, where t_n is the unit text feature of class n and mu_n the
normalised mean of its unit training features; scaled cosines predict. With w = 1 this is the nearest class mean of
prototypical networks (Snell et al., 2017) on frozen features.
Deviation: no published recipe of the mixture is followed. The weight is chosen from
21 values on validation images, without them by cross-validation on the training images, and is 0.5 where a class has
one training image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import Head, cosine_head
from blocklora.classifier.heads import cosine_logits
from blocklora.core.choices import Choice
from blocklora.methods.answers import HeldOut
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.folds import choose_value, folds, out_of_fold_logits
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need

__all__ = ["METHOD", "PrototypesSettings", "fit", "mixed"]

_WEIGHTS = tuple(i / 20 for i in range(21))  # of equals the one nearest to zero-shot
_BEFOREHAND = 0.5


@dataclass(frozen=True)
class PrototypesSettings:
    """How to mix.

    Attributes:
        weight: Of the images, in [0, 1]; None chooses it on validation images, or by cross-validation. With 0 this is
            zero-shot.
    """

    weight: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        if self.weight is not None:
            need(0 <= self.weight <= 1, "weight", self.weight, "a number from 0 to 1")


def fit(job: Job, settings: PrototypesSettings) -> FitResult:
    """Average the images of every class, and choose the weight."""
    features = frozen_features(job, job.task.train)[0].double()  # (M, D)
    labels, texts = labels_of(job.task.train), job.written_classes.double()
    weight, choice, held_out = _chosen(job, settings, features, labels, texts)
    classes = mixed(features, labels, texts, weight).float()
    choices = {"weight": choice, "kept step": Choice(0, "fixed", "nothing was trained")}
    return FitResult(job.classifier(classes), 0, choices, held_out=held_out, features=features)


def _chosen(
    job: Job, settings: PrototypesSettings, features: Tensor, labels: Tensor, texts: Tensor
) -> tuple[float, Choice, HeldOut | None]:
    """Return the weight, how it was chosen, and the logits of the training images held out to choose it."""
    if settings.weight is not None:
        return settings.weight, Choice(settings.weight, "fixed", "given"), None

    def logits(inputs: Tensor, weight: float, fit_to: Tensor | slice = slice(None)) -> Tensor:
        classes = mixed(features[fit_to], labels[fit_to], texts, weight)
        return cosine_logits(inputs.double(), classes, job.scale)

    def held_out(weight: float) -> Tensor:
        return out_of_fold_logits(folds(labels), lambda to, out: logits(features[out], weight, to))

    def fold_head(weight: float, fit_to: Tensor) -> Head:
        return cosine_head(mixed(features[fit_to], labels[fit_to], texts, weight).float(), job.scale)

    return choose_value(
        job, _WEIGHTS, beforehand=_BEFOREHAND, logits=logits, held_out=held_out, fold_head=fold_head
    )


def mixed(features: Tensor, labels: Tensor, texts: Tensor, weight: float) -> Tensor:
    """Return the mixture of class means and texts, as unit features (N, D).

    Args:
        features: Unit features of the training images (M, D).
        labels: Their labels (M,); every class has one or more.
        texts: Unit text features (N, D).
        weight: Of the images, in [0, 1].
    """
    means = torch.stack([features[labels == n].mean(dim=0) for n in range(len(texts))])
    return F.normalize(weight * F.normalize(means, dim=-1) + (1 - weight) * texts, dim=-1)


METHOD = Method(fit, PrototypesSettings, prompts="trained with", refits=True)
