"""A linear probe that starts from the class prompts: the baseline of CLAP (Silva-Rodriguez et al., 2024).

Recipe (jusiro/CLAP, ``trainers/adapters.py``, initialisation ZS, no constraint): one prototype a class, at first the
text tower's output for its prompt; scaled cosines; SGD 0.1 with momentum 0.9, batches of 256, 300 epochs under
CoOp's schedule; M of 20 augmented passes over the M images are drawn every epoch.
Deviation: none known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import cosine_logits
from blocklora.core.schedules import epoch_cosine
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import FeatureSettings, class_embeddings, training_features
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.settings import need, need_positive, need_whole
from blocklora.training import minimise

__all__ = ["METHOD", "ZeroShotProbeSettings", "fit"]


@dataclass(frozen=True)
class ZeroShotProbeSettings(FeatureSettings):
    """How to train the prototypes; the other attributes are those of ``FeatureSettings``.

    Attributes:
        lr: Learning rate of SGD.
        momentum: Of SGD, in [0, 1).
        weight_decay: Of SGD.
        batch_size: Features a step.
        epochs: Times that as many features as there are images are seen.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 300
    passes: int = 20
    smallest_crop: float = 0.08

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "batch_size", "epochs")
        need_positive(self, "lr")
        need_positive(self, "weight_decay", zero=True)
        need(0 <= self.momentum < 1, "momentum", self.momentum, "a number from 0 up to, but not, 1")


def fit(job: Job, settings: ZeroShotProbeSettings) -> FitResult:
    """Train the prototypes."""
    batches = training_batches(job, training_features(job, settings), settings.batch_size, draw="mixed")
    prototypes = torch.nn.Parameter(class_embeddings(job).to(job.device))  # (N, D)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(cosine_logits(inputs, F.normalize(prototypes, dim=-1), job.scale), labels)
        job.compute.backward(loss)
        return loss

    optimizer = torch.optim.SGD(
        [prototypes], lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    an_epoch, state = batches.an_epoch, {"prototypes": prototypes}
    steps = job.steps_in_time(
        settings.epochs * an_epoch, job.pace(gradients, optimizer, batches, state), whole=an_epoch
    )
    curve = minimise(
        gradients,
        optimizer,
        epoch_cosine(steps.number // an_epoch, an_epoch, settings.lr),
        batches,
        job.compute,
        steps=steps,
        state=state,
        on_step=job.on_step,
        resources=job.resources,
    )
    classifier = job.classifier(F.normalize(prototypes.detach(), dim=-1))
    return FitResult(classifier, prototypes.numel(), last_step(steps.number, "CLAP's baseline"), curve)


METHOD = Method(fit, ZeroShotProbeSettings, prompts="trained with")
