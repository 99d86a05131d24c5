"""A linear probe that starts from the class prompts: the baseline of CLAP (Silva-Rodriguez et al., 2024).

Recipe (jusiro/CLAP, ``trainers/adapters.py``, initialisation ZS, no constraint): one prototype a class, at first the
text tower's output for its prompt; scaled cosines; SGD 0.1 with momentum 0.9, batches of 256, 300 epochs under
CoOp's schedule; M of 20 augmented passes over the M pictures are drawn every epoch.
Deviation: none known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import cosine_logits
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.frozen.on_features import FeatureBatches, labels_of, text_embeddings, train_features
from blocklora.methods.settings import need, need_positive, need_share, need_whole
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import epoch_cosine, minimise
from blocklora.training.pictures import Augment

__all__ = ["Settings", "fit"]


@dataclass(frozen=True)
class Settings:
    """How to train the prototypes.

    Attributes:
        lr: Learning rate of SGD.
        momentum: Of SGD, in [0, 1).
        weight_decay: Of SGD.
        batch_size: Features a step.
        epochs: Times that as many features as there are pictures are seen.
        passes: Augmented passes over the pictures.
        smallest_crop: Its share of a picture's area, in (0, 1].
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 256
    epochs: int = 300
    passes: int = 20
    smallest_crop: float = 0.08
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "batch_size", "epochs", "passes")
        need_positive(self, "lr")
        need_positive(self, "weight_decay", zero=True)
        need(0 <= self.momentum < 1, "momentum", self.momentum, "a number from 0 up to, but not, 1")
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
    """Train the prototypes; see ``Method``."""
    features = train_features(
        task,
        clip,
        compute,
        augment=options.augment,
        passes=options.passes,
        smallest=options.smallest_crop,
        seed=seed,
    )
    batches = FeatureBatches(
        features, labels_of(task.train), batch_size=options.batch_size, seed=seed, draw="mixed"
    )
    prototypes = torch.nn.Parameter(text_embeddings(task, clip).to(compute.device))  # (N, D)
    scale = clip.model.logit_scale.detach().exp()

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(cosine_logits(inputs, F.normalize(prototypes, dim=-1), scale), labels)
        compute.backward(loss)
        return loss

    steps = options.epochs * batches.an_epoch
    curve = minimise(
        gradients,
        torch.optim.SGD(
            [prototypes], lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        ),
        epoch_cosine(options.epochs, batches.an_epoch, options.lr),
        batches,
        compute,
        steps=steps,
        state={"prototypes": prototypes},
        on_step=on_step,
    )
    return Fitted(
        model=clip.model,
        class_features=F.normalize(prototypes.detach(), dim=-1).cpu(),
        trainable_parameters=prototypes.numel(),
        training=curve,
        selection=fixed_beforehand(steps, "CLAP's baseline"),
    )
