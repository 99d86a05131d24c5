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
from blocklora.core.schedules import epoch_cosine
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import FeatureSettings, class_embeddings, training_features
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.settings import need_positive, need_whole
from blocklora.training import minimise

__all__ = ["METHOD", "TaskResSettings", "fit"]

_FEW, _EPOCHS_FEW, _EPOCHS_MANY = 4, 100, 200


@dataclass(frozen=True)
class TaskResSettings(FeatureSettings):
    """How to train the residual; the other attributes are those of ``FeatureSettings``.

    Attributes:
        alpha: What the residual is multiplied by.
        lr: Learning rate of Adam.
        weight_decay: Of Adam, as a part of the gradient.
        batch_size: Features a step.
        epochs: Times that every image is seen; None is 100 for up to 4 shots, and 200 for more.
    """

    alpha: float = 0.5
    lr: float = 2e-3
    weight_decay: float = 5e-4
    batch_size: int = 256
    epochs: int | None = None
    smallest_crop: float = 0.08

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "batch_size", "epochs")
        need_positive(self, "lr")
        need_positive(self, "alpha", "weight_decay", zero=True)


def fit(job: Job, settings: TaskResSettings) -> FitResult:
    """Train the residual."""
    batches = training_batches(job, training_features(job, settings), settings.batch_size)
    base = class_embeddings(job).to(job.device)  # (N, D)
    residual = torch.nn.Parameter(torch.zeros_like(base))

    def classes() -> Tensor:
        return F.normalize(base + settings.alpha * residual, dim=-1)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(cosine_logits(inputs, classes(), job.scale), labels)
        job.compute.backward(loss)
        return loss

    epochs = settings.epochs or (_EPOCHS_FEW if job.task.shots <= _FEW else _EPOCHS_MANY)
    optimizer = torch.optim.Adam([residual], lr=settings.lr, weight_decay=settings.weight_decay)
    an_epoch, state = batches.an_epoch, {"residual": residual}
    steps = job.steps_in_time(
        epochs * an_epoch, job.pace(gradients, optimizer, batches, state), whole=an_epoch
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
    return FitResult(
        job.classifier(classes().detach()), residual.numel(), last_step(steps.number, "TaskRes"), curve
    )


METHOD = Method(fit, TaskResSettings, prompts="trained with")
