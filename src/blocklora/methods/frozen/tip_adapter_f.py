"""Tip-Adapter-F: Tip-Adapter whose keys are trained (Zhang et al., 2022).

Recipe (gaopengcuhk/Tip-Adapter): AdamW 1e-3 with eps 1e-4, 20 epochs, batches of 256, a cosine that falls every step;
alpha and beta are 1.17 and 1 while training, and then chosen from 20 x 200 values.
Deviations: the epoch, alpha and beta are chosen on validation pictures, where the released code looks at test pictures;
without any, the last epoch with the alpha and beta of training is kept. Every epoch trains on one of the 10 augmented
passes that make up the cache, in turn, not on new crops. The logit scale is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import Head, cache_logits
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.frozen.on_features import (
    FeatureBatches,
    Keeper,
    labels_of,
    train_features,
    val_features,
    written_classes,
)
from blocklora.methods.frozen.tip_adapter import cache_of, choose
from blocklora.methods.settings import need_positive, need_share, need_whole
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import minimise, step_cosine
from blocklora.training.pictures import Augment

__all__ = ["Settings", "fit"]


@dataclass(frozen=True)
class Settings:
    """How to train the cache.

    Attributes:
        lr: Learning rate of AdamW.
        eps: Of AdamW.
        weight_decay: Of AdamW; torch's default.
        batch_size: Features a step.
        epochs: Times that every picture is seen.
        alpha: How much the cache counts while training.
        beta: How fast a cached picture's say falls with its distance while training.
        largest_alpha: Where the values that are tried on validation pictures end; they begin at 0.1.
        largest_beta: The same of beta.
        passes: Augmented passes over the pictures.
        smallest_crop: Its share of a picture's area, in (0, 1].
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
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
    passes: int = 10
    smallest_crop: float = 0.5
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "batch_size", "epochs", "passes")
        need_positive(self, "lr", "eps", "alpha", "beta", "largest_alpha", "largest_beta")
        need_positive(self, "weight_decay", zero=True)
        need_share(self, "smallest_crop")


def fit(
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Train the cache's keys; see ``Method``."""
    device = compute.device
    features = train_features(
        task,
        clip,
        compute,
        augment=options.augment,
        passes=options.passes,
        smallest=options.smallest_crop,
        seed=seed,
    )
    batches = FeatureBatches(features, labels_of(task.train), batch_size=options.batch_size, seed=seed)
    cache = cache_of(features, task)
    classes = written_classes(task, clip)
    scale = float(clip.model.logit_scale.detach().exp())
    keys = torch.nn.Parameter(cache["keys"].to(device))
    fixed = (classes.to(device), cache["values"].to(device))

    def logits(inputs: Tensor) -> Tensor:
        return cache_logits(inputs, fixed[0], keys, fixed[1], scale, options.alpha, options.beta)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits(inputs), labels)
        compute.backward(loss)
        return loss

    val = val_features(task, clip, compute)
    keeper = Keeper([keys], logits, *val, an_epoch=batches.an_epoch)
    steps = options.epochs * batches.an_epoch
    curve = minimise(
        gradients,
        torch.optim.AdamW([keys], lr=options.lr, eps=options.eps, weight_decay=options.weight_decay),
        step_cosine(steps),
        batches,
        compute,
        steps=steps,
        state={"keys": keys},
        on_step=on_step,
        after_step=keeper.after_step,
    )
    kept = keeper.put_back(options.epochs)
    tensors = {"class_features": classes, "keys": keys.detach().cpu(), "values": cache["values"]}
    searched = bool(task.val)
    numbers, why = choose(
        tensors,
        scale,
        *val,
        alpha=None if searched else options.alpha,
        beta=None if searched else options.beta,
        largest=(options.largest_alpha, options.largest_beta),
    )
    return Fitted(
        model=clip.model,
        class_features=classes,
        trainable_parameters=keys.numel(),
        training=curve,
        selection={"kept step": kept, "alpha, beta": why},
        head=Head("cache", tensors, numbers),
    )
