"""ProLIP: the last layer of the image tower, its projection, trained and kept near itself (Fahes et al., 2025).

The loss is the cross-entropy of scaled cosines with the class prompts plus |W - W0|^2 / shots, where W0 is the
checkpoint's projection. What it reads is the same for all W, and computed once.
Recipe (astra-vision/ProLIP, ``methods/ProLIP.py``, without a validation set): Adam with eps 1e-4 and rates from 1e-5 to
1e-2, 300 steps of all images at once, half a cosine to 0; crops of 50% to 100% with mirror images, one augmented pass a
step. Of the rates it is 1e-4 here: on validation images of the bundled tasks 1e-5 trained too little, the others alike.
Deviations: 10 passes in turn instead of 300, since each is a run of the image tower; its outputs before the projection
are normalised, which changes no feature, as these are normalised after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import ImageChange, TextChange
from blocklora.classifier.heads import cosine_logits
from blocklora.clip import shared_view
from blocklora.core.schedules import step_cosine
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import FeatureSettings, training_features
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.settings import need_positive, need_whole
from blocklora.training import minimise

__all__ = ["METHOD", "ProlipSettings", "before_projection", "fit"]

_WEIGHT = "visual_projection.weight"


@dataclass(frozen=True)
class ProlipSettings(FeatureSettings):
    """How to train the projection; the other attributes are those of ``FeatureSettings``.

    Attributes:
        lr: Learning rate of Adam.
        eps: Of Adam.
        penalty: The factor of |W - W0|^2; None is 1 over the shots.
        epochs: Steps; each sees one pass of all images.
    """

    lr: float = 1e-4
    eps: float = 1e-4
    penalty: float | None = None
    epochs: int = 300

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "epochs")
        need_positive(self, "lr", "eps")
        need_positive(self, "penalty", zero=True)


def fit(job: Job, settings: ProlipSettings) -> FitResult:
    """Train the projection."""
    features = training_features(before_projection(job), settings)  # (V, M, H)
    first = job.clip.model.visual_projection.weight.detach().float()  # (D, H)
    weight = torch.nn.Parameter(first.clone())
    classes = job.written_classes.to(job.device)
    penalty = 1 / job.task.shots if settings.penalty is None else settings.penalty

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = cosine_logits(F.normalize(inputs @ weight.T, dim=-1), classes, job.scale)
        loss: Tensor = F.cross_entropy(logits, labels) + penalty * (weight - first).square().sum()
        job.compute.backward(loss)
        return loss

    batches, state = training_batches(job, features, features.shape[1]), {"weight": weight}
    optimizer = torch.optim.Adam([weight], lr=settings.lr, eps=settings.eps)
    steps = job.steps_in_time(settings.epochs, job.pace(gradients, optimizer, batches, state))
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
    )
    classifier = job.classifier(
        job.written_classes, image=ImageChange({_WEIGHT: weight.detach()}), text=TextChange()
    )
    return FitResult(classifier, weight.numel(), last_step(steps.number, "ProLIP"), curve)


def before_projection(job: Job) -> Job:
    """Return the job of a model whose image features are unit vectors (H,) of what the visual projection reads."""
    view = shared_view(job.clip.model)
    old = view.visual_projection.weight
    same = torch.eye(old.shape[1], dtype=old.dtype, device=old.device)
    view.visual_projection.weight = torch.nn.Parameter(same, requires_grad=False)
    # features of another model: the store must not take them for those of this one
    return replace(job, clip=replace(job.clip, model=view, sha256=f"{job.clip.sha256}, not projected"))


METHOD = Method(
    fit,
    ProlipSettings,
    open=True,
    prompts="trained with",
    families=("clip", "chinese_clip", "metaclip_2"),
)
