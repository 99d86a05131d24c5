"""2SFS: two stages of few-shot adaptation, first the LayerNorms, then the classes (Farina et al., 2025).

Recipe: 300 steps a shot, batches of 32, AdamW 2e-4 with weight decay 1e-2. The first 60% of the steps train the
LayerNorms of both towers, as ``layer-norm`` does; then both towers are frozen, and the class features that they lead
to are trained themselves.
Deviations: each stage has a cosine of its own, from the learning rate to 1e-6, and class features are normalised in
every step. Written from the paper; whether the released code does so was not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import cosine_logits
from blocklora.clip import class_features, image_features, text_features
from blocklora.core.schedules import step_cosine
from blocklora.methods.frozen.features import training_images
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.settings import need
from blocklora.methods.weights.own_weights import (
    LAST_LR,
    WeightSettings,
    changes_of,
    layer_norms,
    own,
    trainable_view,
)
from blocklora.training import minimise

__all__ = ["METHOD", "TwoStageSettings", "fit"]

_STEPS_A_SHOT = 300


@dataclass(frozen=True)
class TwoStageSettings(WeightSettings):
    """How to train; the other attributes are those of LayerNorm tuning.

    Attributes:
        first_stage: The share of the steps that train the LayerNorms, in [0, 1].
    """

    first_stage: float = 0.6

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need(0 <= self.first_stage <= 1, "first_stage", self.first_stage, "a share from 0 to 1")


def fit(job: Job, settings: TwoStageSettings) -> FitResult:
    """Train the LayerNorms, then the classes."""
    view = trainable_view(job)
    parameters = layer_norms(view)
    own(parameters)
    classes = torch.nn.Parameter(class_features(view, job.task.tokens).to(job.device))  # (N, D)
    gradients = partial(_gradients, job, view, classes)
    last = min(1.0, LAST_LR / settings.lr)
    optimizer = torch.optim.AdamW(
        [{"params": list(parameters.values())}, {"params": [classes]}],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
    )
    batches = training_images(job, settings.batch_size, settings.augment)
    state = {**parameters, "classes": classes}
    most = job.task.steps(settings.iterations, _STEPS_A_SHOT)

    def pace(budget: float) -> float:
        """Return the mean over both stages, each of which is timed alone."""
        shares = {
            most: settings.first_stage,
            0: 1 - settings.first_stage,
        }  # by the step that ends the first stage
        paces = {first: job.pace(partial(gradients, first), optimizer, batches, state) for first in shares}
        return sum(share * paces[first](budget / 2) for first, share in shares.items() if share)

    steps = job.steps_in_time(most, pace)
    first = round(settings.first_stage * steps.number)
    second = steps.number - first
    curve = minimise(
        partial(gradients, first),
        optimizer,
        [step_cosine(first, last=last), step_cosine(second, last=last, start=first)],
        batches,
        job.compute,
        steps=steps,
        state=state,
        checkpoint=job.checkpoint,
        on_step=job.on_step,
        resources=job.resources,
    )
    final = F.normalize(classes.detach(), dim=-1) if second else class_features(view, job.task.tokens)
    image, text = changes_of(parameters)
    return FitResult(
        job.classifier(final, image=image, text=text),
        sum(p.numel() for p in parameters.values()) + classes.numel(),
        last_step(steps.number, "2SFS"),
        curve,
    )


def _gradients(
    job: Job,
    view: Any,
    classes: torch.nn.Parameter,
    first: int,
    step: int,
    pixel_values: Tensor,
    labels: Tensor,
) -> Tensor:
    """Compute the gradient of a step, whose stage is the first up to the step ``first``, and return its loss."""
    if step == first:  # the towers are done
        classes.data = class_features(view, job.task.tokens).to(classes)
    with job.compute.autocast(), torch.set_grad_enabled(step < first):
        images = image_features(view, pixel_values)
        texts = text_features(view, job.task.tokens.to(job.device)) if step < first else None
    units = F.normalize(classes, dim=-1) if texts is None else texts
    loss = F.cross_entropy(cosine_logits(images, units.to(images.dtype), job.scale).float(), labels)
    job.compute.backward(loss)
    return loss


METHOD = Method(fit, TwoStageSettings, open=True)
