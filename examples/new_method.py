"""A method of your own, in one file: class prototypes, a mean of what a class is called and what it looks like.

It is called `my-prototypes`, since the package has `prototypes` of its own, which also choose the weight.
The grid examples/grids/new_method.toml names this file (`methods_from`), and the bench compares it with the others:

    blocklora bench examples/grids/new_method.toml --out results/new_method
    blocklora tables results/new_method
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from blocklora.core.choices import Choice
from blocklora.methods import FitResult, Job, Method
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.settings import need


@dataclass(frozen=True)
class PrototypeSettings:
    """What can be set; every field needs a default.

    Attributes:
        weight: Of the images, against the class's name, 0 to 1; fixed beforehand, not tuned. With 0 this is zero-shot.
    """

    weight: float = 0.5

    def __post_init__(self) -> None:
        """Check every value."""
        need(0 <= self.weight <= 1, "weight", self.weight, "a share from 0 to 1")


def fit(job: Job, settings: PrototypeSettings) -> FitResult:
    """Average the frozen features of a class's images with those of its prompt; nothing is trained."""
    (images,) = frozen_features(job, job.task.train)  # (M, D), unit; a store computes them once for all runs
    labels = labels_of(job.task.train)
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(len(job.task.class_names))])
    names = job.written_classes  # (N, D), unit
    mixed = settings.weight * F.normalize(means, dim=-1) + (1 - settings.weight) * names
    choice = Choice(settings.weight, "fixed", "chosen beforehand")
    return FitResult(job.classifier(F.normalize(mixed, dim=-1)), 0, {"weight": choice})


METHODS = {"my-prototypes": Method(fit, PrototypeSettings, prompts="trained with")}
