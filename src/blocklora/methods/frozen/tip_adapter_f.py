"""Tip-Adapter-F: Tip-Adapter whose keys are trained (Zhang et al., 2022).

Recipe (gaopengcuhk/Tip-Adapter): AdamW 1e-3 with eps 1e-4, 20 epochs, batches of 256, a cosine that falls every step;
alpha and beta are 1.17 and 1 while training, and then chosen from 20 x 200 values.
Deviations: the epoch, alpha and beta are chosen on validation images, where the released code looks at test images;
without any, the last epoch with the alpha and beta of training is kept. Every epoch trains on one of the 10 augmented
passes that make up the cache, in turn, not on new crops. The logit scale is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import cache_logits
from blocklora.core.schedules import step_cosine
from blocklora.methods.frozen.batches import Keeper, training_batches
from blocklora.methods.frozen.features import FeatureSettings, training_features, validation_features
from blocklora.methods.frozen.tip_adapter import cache_head, cache_of, choose
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive, need_whole
from blocklora.training import minimise

__all__ = ["METHOD", "TipAdapterFSettings", "fit"]


@dataclass(frozen=True)
class TipAdapterFSettings(FeatureSettings):
    """How to train the cache; the other attributes are those of ``FeatureSettings``.

    Attributes:
        lr: Learning rate of AdamW.
        eps: Of AdamW.
        weight_decay: Of AdamW; torch's default.
        batch_size: Features a step.
        epochs: Times that every image is seen.
        alpha: How much the cache counts while training.
        beta: How fast a cached image's weight falls with its distance while training.
        largest_alpha: Where the values that are tried on validation images end; they begin at 0.1.
        largest_beta: The same of beta.
    """

    lr: float = 1e-3
    eps: float = 1e-4
    weight_decay: float = 1e-2
    batch_size: int = 256
    epochs: int = 20
    alpha: float = 1.17
    beta: float = 1.0
    largest_alpha: float = 3.0
    largest_beta: float = 7.0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "batch_size", "epochs")
        need_positive(self, "lr", "eps", "alpha", "beta", "largest_alpha", "largest_beta")
        need_positive(self, "weight_decay", zero=True)


def fit(job: Job, settings: TipAdapterFSettings) -> FitResult:
    """Train the cache's keys."""
    features = training_features(job, settings)
    batches = training_batches(job, features, settings.batch_size)
    cache, classes, scale = cache_of(features, job), job.written_classes, job.scale
    keys = torch.nn.Parameter(cache["keys"].to(job.device))
    fixed = (classes.to(job.device), cache["values"].to(job.device))

    def logits(inputs: Tensor) -> Tensor:
        return cache_logits(inputs, fixed[0], keys, fixed[1], scale, settings.alpha, settings.beta)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits(inputs), labels)
        job.compute.backward(loss)
        return loss

    val = validation_features(job)
    keeper = Keeper([keys], logits, *val, an_epoch=batches.an_epoch)
    optimizer = torch.optim.AdamW(
        [keys], lr=settings.lr, eps=settings.eps, weight_decay=settings.weight_decay
    )
    an_epoch, state = batches.an_epoch, {"keys": keys}
    steps = job.steps_in_time(
        settings.epochs * an_epoch, job.pace(gradients, optimizer, batches, state), whole=an_epoch
    )
    curve = minimise(
        gradients,
        optimizer,
        step_cosine(steps.number),
        batches,
        job.compute,
        steps=steps,
        state=state,
        on_step=job.on_step,
        resources=job.resources,
        after_step=keeper.after_step,
    )
    kept = keeper.put_back(steps.number // an_epoch)
    tensors = {"class_features": classes, "keys": keys.detach().cpu(), "values": cache["values"]}
    searched = bool(job.task.val)
    chosen = choose(
        tensors,
        scale,
        *val,
        alpha=None if searched else settings.alpha,
        beta=None if searched else settings.beta,
        largest=(settings.largest_alpha, settings.largest_beta),
    )
    classifier = job.classifier(head=cache_head(tensors, scale, chosen))
    return FitResult(classifier, keys.numel(), {"kept step": kept, **chosen}, curve)


METHOD = Method(fit, TipAdapterFSettings, prompts="trained with")
