"""CLIP-Adapter: a small bottleneck on the image features, mixed with them (Gao et al., 2021).

Recipe: D -> D/4 -> D without biases, two ReLUs, ratio 0.2 (gaopengcuhk/CLIP-Adapter); plain SGD 0.01, batches of 32
(FereshteShakeri/FewShot-CLIP-Strong-Baseline).
Deviations: 200 epochs under CoOp's schedule; how long the released code trains was not checked. The epoch is chosen on
validation pictures; without any, the last is kept. Epochs take turns over 10 augmented passes that are computed once,
not new crops. The bottleneck reads unit features, which changes nothing: without biases it is as long as what it reads,
and the sum is normalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import Head, adapted_logits
from blocklora.classifier.text_side import TextSide
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
from blocklora.methods.settings import need, need_positive, need_share, need_whole
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import epoch_cosine, minimise
from blocklora.training.pictures import Augment

__all__ = ["Settings", "fit"]


@dataclass(frozen=True)
class Settings:
    """How to train the bottleneck.

    Attributes:
        ratio: The bottleneck's share of a feature, in [0, 1]; with 0 this is zero-shot.
        reduction: How many times narrower than a feature it is.
        lr: Learning rate of SGD.
        batch_size: Features a step.
        epochs: Times that every picture is seen.
        passes: Augmented passes over the pictures.
        smallest_crop: Its share of a picture's area, in (0, 1].
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
    """

    ratio: float = 0.2
    reduction: int = 4
    lr: float = 0.01
    batch_size: int = 32
    epochs: int = 200
    passes: int = 10
    smallest_crop: float = 0.5
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need(0 <= self.ratio <= 1, "ratio", self.ratio, "a share from 0 to 1")
        need_whole(self, "reduction", "batch_size", "epochs", "passes")
        need_positive(self, "lr")
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
    """Train the bottleneck; see ``Method``."""
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
    classes = written_classes(task, clip)
    there = classes.to(device)
    scale = float(clip.model.logit_scale.detach().exp())
    width = features.shape[-1]
    hidden = max(1, width // options.reduction)
    generator = torch.Generator().manual_seed(seed)
    down, up = (_linear(*shape, generator, device) for shape in ((hidden, width), (width, hidden)))

    def logits(inputs: Tensor) -> Tensor:
        return adapted_logits(inputs, there, down, up, scale, options.ratio)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits(inputs), labels)
        compute.backward(loss)
        return loss

    val = val_features(task, clip, compute)
    keeper = Keeper([down, up], logits, *val, an_epoch=batches.an_epoch)
    curve = minimise(
        gradients,
        torch.optim.SGD([down, up], lr=options.lr),
        epoch_cosine(options.epochs, batches.an_epoch, options.lr),
        batches,
        compute,
        steps=options.epochs * batches.an_epoch,
        state={"down": down, "up": up},
        on_step=on_step,
        after_step=keeper.after_step,
    )
    kept = keeper.put_back(options.epochs)
    tensors = {"class_features": classes, "down": down.detach().cpu(), "up": up.detach().cpu()}
    return Fitted(
        model=clip.model,
        class_features=classes,
        trainable_parameters=down.numel() + up.numel(),
        training=curve,
        selection={"kept step": kept, "settings": "fixed beforehand: the published ratio, or what was given"},
        text=TextSide(),
        head=Head("bottleneck", tensors, {"scale": scale, "ratio": options.ratio}),
    )


def _linear(rows: int, columns: int, generator: torch.Generator, device: torch.device) -> torch.nn.Parameter:
    """Return weights (rows, columns) as torch's ``Linear`` starts them."""
    weight = torch.empty(rows, columns)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    return torch.nn.Parameter(weight.to(device))
