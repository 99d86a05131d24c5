"""CLIP-Adapter: a small bottleneck on the image features, mixed with them (Gao et al., 2021).

Recipe: D -> D/4 -> D without biases, two ReLUs, ratio 0.2 (gaopengcuhk/CLIP-Adapter); plain SGD 0.01, batches of 32
(FereshteShakeri/FewShot-CLIP-Strong-Baseline).
Deviations: 200 epochs under CoOp's schedule; how long the released code trains was not checked. The epoch is chosen on
validation images; without any, the last is kept. Epochs take turns over 10 augmented passes that are computed once,
not new crops. The bottleneck reads unit features, which changes nothing: without biases it is as long as what it reads,
and the sum is normalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import Head, TextChange
from blocklora.classifier.heads import adapted_logits
from blocklora.core.choices import Choice
from blocklora.core.schedules import epoch_cosine
from blocklora.core.seeds import start_generator
from blocklora.methods.frozen.batches import Keeper, training_batches
from blocklora.methods.frozen.features import FeatureSettings, training_features, validation_features
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need, need_positive, need_whole
from blocklora.training import minimise

__all__ = ["METHOD", "ClipAdapterSettings", "fit"]


@dataclass(frozen=True)
class ClipAdapterSettings(FeatureSettings):
    """How to train the bottleneck; the other attributes are those of ``FeatureSettings``.

    Attributes:
        ratio: The bottleneck's share of a feature, in [0, 1]; with 0 this is zero-shot.
        reduction: How many times narrower than a feature it is.
        lr: Learning rate of SGD.
        batch_size: Features a step.
        epochs: Times that every image is seen.
    """

    ratio: float = 0.2
    reduction: int = 4
    lr: float = 0.01
    batch_size: int = 32
    epochs: int = 200

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need(0 <= self.ratio <= 1, "ratio", self.ratio, "a share from 0 to 1")
        need_whole(self, "reduction", "batch_size", "epochs")
        need_positive(self, "lr")


def fit(job: Job, settings: ClipAdapterSettings) -> FitResult:
    """Train the bottleneck."""
    features = training_features(job, settings)
    batches = training_batches(job, features, settings.batch_size)
    classes, scale = job.written_classes, job.scale
    there = classes.to(job.device)
    down, up = _start(job, features.shape[-1], settings.reduction)

    def logits(inputs: Tensor) -> Tensor:
        return adapted_logits(inputs, there, down, up, scale, settings.ratio)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits(inputs), labels)
        job.compute.backward(loss)
        return loss

    keeper = Keeper([down, up], logits, *validation_features(job), an_epoch=batches.an_epoch)
    optimizer = torch.optim.SGD([down, up], lr=settings.lr)
    an_epoch, state = batches.an_epoch, {"down": down, "up": up}
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
        after_step=keeper.after_step,
    )
    kept = keeper.put_back(steps.number // an_epoch)
    tensors = {"class_features": classes, "down": down.detach().cpu(), "up": up.detach().cpu()}
    head = Head("bottleneck", tensors, {"scale": scale, "ratio": settings.ratio})
    choices = {
        "kept step": kept,
        "settings": Choice("as published or given", "fixed", "the published ratio, or given"),
    }
    return FitResult(job.classifier(head=head, text=TextChange()), down.numel() + up.numel(), choices, curve)


def _start(job: Job, width: int, reduction: int) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """Return the bottleneck's weights (H, D) and (D, H) as torch's ``Linear`` starts them."""
    hidden = max(1, width // reduction)
    generator = start_generator(job.seed)

    def linear(rows: int, columns: int) -> torch.nn.Parameter:
        weight = torch.empty(rows, columns)
        torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        return torch.nn.Parameter(weight.to(job.device))

    return linear(hidden, width), linear(width, hidden)


METHOD = Method(fit, ClipAdapterSettings, open=True, prompts="averaged")
