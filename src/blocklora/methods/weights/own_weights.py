"""What methods that train CLIP's own weights share: which ones, and how they are trained in a view of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import ImageChange, TextChange, is_of_image_tower
from blocklora.classifier.heads import cosine_logits
from blocklora.clip import class_features, image_features, shared_view, text_features
from blocklora.core.schedules import step_cosine
from blocklora.methods.frozen.features import training_images
from blocklora.methods.method import FitResult, Job, last_step
from blocklora.methods.settings import need_positive, need_whole
from blocklora.training import minimise
from blocklora.training.images import Augment

__all__ = [
    "LAST_LR",
    "WeightSettings",
    "changes_of",
    "fit_weights",
    "layer_norms",
    "own",
    "trainable_view",
]

LAST_LR = 1e-6  # where the cosine ends


@dataclass(frozen=True)
class WeightSettings:
    """How to train weights.

    Attributes:
        iterations: Steps in all; None is 300 for every shot (of the largest class, 16 at most).
        lr: Learning rate of AdamW; falls to 1e-6 along half a cosine.
        weight_decay: Of AdamW.
        batch_size: Images a step.
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
    """

    iterations: int | None = None
    lr: float = 2e-4
    weight_decay: float = 1e-2
    batch_size: int = 32
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "iterations", "batch_size")
        need_positive(self, "lr")
        need_positive(self, "weight_decay", zero=True)


def trainable_view(job: Job) -> Any:
    """Return a view of the model in which parameters can be trained: the model itself stays as it is.

    Parameters that are to be trained are made the view's own by ``own``; the others share their memory.
    """
    return shared_view(job.clip.model)


def own(parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Give parameters of a view memory of their own, and let them be trained."""
    for parameter in parameters.values():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)


def layer_norms(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weights and biases of every LayerNorm of both towers, by name."""
    return {
        f"{name}.{own}": parameter
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for own, parameter in module.named_parameters()
    }


def changes_of(parameters: Mapping[str, torch.nn.Parameter]) -> tuple[ImageChange, TextChange]:
    """Return the values that these parameters have now, as changes of the two towers."""
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    images = {name: value for name, value in values.items() if is_of_image_tower(name)}
    texts = {name: value for name, value in values.items() if not is_of_image_tower(name)}
    return ImageChange(images), TextChange(texts)


def fit_weights(
    job: Job,
    settings: WeightSettings,
    view: Any,
    parameters: Mapping[str, torch.nn.Parameter],
    most: int,
    recipe: str,
) -> FitResult:
    """Train some of the weights of a view of the model, by the names they have in it, for at most so many steps."""
    own(parameters)
    tokens = job.task.tokens.to(job.device)

    def gradients(step: int, pixel_values: Tensor, labels: Tensor) -> Tensor:
        with job.compute.autocast():
            images, classes = image_features(view, pixel_values), text_features(view, tokens)
            logits = cosine_logits(images, classes, job.scale)
        loss = F.cross_entropy(logits.float(), labels)
        job.compute.backward(loss)
        return loss

    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    batches = training_images(job, settings.batch_size, settings.augment)
    steps = job.steps_in_time(most, job.pace(gradients, optimizer, batches, parameters))
    curve = minimise(
        gradients,
        optimizer,
        step_cosine(steps.number, last=min(1.0, LAST_LR / settings.lr)),
        batches,
        job.compute,
        steps=steps,
        state=dict(parameters),
        checkpoint=job.checkpoint,
        on_step=job.on_step,
        resources=job.resources,
    )
    image, text = changes_of(parameters)
    return FitResult(
        job.classifier(class_features(view, job.task.tokens), image=image, text=text),
        sum(parameter.numel() for parameter in parameters.values()),
        last_step(steps.number, recipe),
        curve,
    )
