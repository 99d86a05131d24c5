"""TaskRes: a trained residual on the class features (Yu et al., 2023).

Recipe (geekyutao/TaskRes): classes are the text tower's outputs, not normalised, plus 0.5 times a residual that starts
at zero; Adam 2e-3 with weight decay 5e-4, batches of 256, 100 epochs for up to 4 shots and 200 for more, CoOp's
schedule.
Published for ImageNet: lr 2e-4; for Flowers102: alpha 1.
Deviation: epochs take turns over 10 augmented passes that are computed once, not new crops.
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
from blocklora.methods.settings import need_positive, need_share, need_whole
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import epoch_cosine, minimise
from blocklora.training.pictures import Augment

__all__ = ["Settings", "fit"]

_FEW, _EPOCHS_FEW, _EPOCHS_MANY = 4, 100, 200


@dataclass(frozen=True)
class Settings:
    """How to train the residual.

    Attributes:
        alpha: What the residual is multiplied by.
        lr: Learning rate of Adam.
        weight_decay: Of Adam, as a part of the gradient.
        batch_size: Features a step.
        epochs: Times that every picture is seen; None is 100 for up to 4 shots, and 200 for more.
        passes: Augmented passes over the pictures.
        smallest_crop: Its share of a picture's area, in (0, 1].
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
    """

    alpha: float = 0.5
    lr: float = 2e-3
    weight_decay: float = 5e-4
    batch_size: int = 256
    epochs: int | None = None
    passes: int = 10
    smallest_crop: float = 0.08
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "batch_size", "epochs", "passes")
        need_positive(self, "lr")
        need_positive(self, "alpha", "weight_decay", zero=True)
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
    """Train the residual; see ``Method``."""
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
    base = text_embeddings(task, clip).to(compute.device)  # (N, D)
    residual = torch.nn.Parameter(torch.zeros_like(base))
    scale = clip.model.logit_scale.detach().exp()

    def classes() -> Tensor:
        return F.normalize(base + options.alpha * residual, dim=-1)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(cosine_logits(inputs, classes(), scale), labels)
        compute.backward(loss)
        return loss

    epochs = options.epochs or (_EPOCHS_FEW if task.shots <= _FEW else _EPOCHS_MANY)
    steps = epochs * batches.an_epoch
    curve = minimise(
        gradients,
        torch.optim.Adam([residual], lr=options.lr, weight_decay=options.weight_decay),
        epoch_cosine(epochs, batches.an_epoch, options.lr),
        batches,
        compute,
        steps=steps,
        state={"residual": residual},
        on_step=on_step,
    )
    return Fitted(
        model=clip.model,
        class_features=classes().detach().cpu(),
        trainable_parameters=residual.numel(),
        training=curve,
        selection=fixed_beforehand(steps, "TaskRes"),
    )
