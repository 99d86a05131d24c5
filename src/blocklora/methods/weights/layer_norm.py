"""LayerNorm tuning: the weights and biases of every LayerNorm of both towers (2SFS's first stage, to the end).

Recipe (Farina et al., 2025): AdamW 2e-4 with weight decay 1e-2, batches of 32, 300 steps a shot, cosine; random crops
of 8% to 100% with mirror images; cross-entropy of scaled cosines with the class prompts.
Deviation: the cosine ends at 1e-6, as in CLIP-LoRA, from whose code 2SFS descends; whether theirs does was not checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import cosine_logits
from blocklora.clip import Clip, class_features, image_features, text_features
from blocklora.core.device import Compute
from blocklora.methods.settings import need_positive, need_whole
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.methods.weights.own_weights import (
    layer_norms,
    of_image_tower,
    of_text_tower,
    pictures_of,
    steps_of,
    trained,
)
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import minimise, step_cosine
from blocklora.training.pictures import Augment

__all__ = ["Settings", "fit", "fit_weights"]

_LAST_LR = 1e-6


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        iterations: Steps in all; None is 300 for every shot (of the largest class, 16 at most).
        lr: Learning rate of AdamW; falls to 1e-6 along half a cosine.
        weight_decay: Of AdamW.
        batch_size: Pictures a step.
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
    """Train the LayerNorms; see ``Method``."""
    parameters = layer_norms(clip.model)
    steps = steps_of(task, options.iterations, 300)
    return fit_weights(
        parameters, steps, "2SFS's first stage", task, clip, options, seed, compute, checkpoint, on_step
    )


def fit_weights(
    parameters: dict[str, torch.nn.Parameter],
    steps: int,
    recipe: str,
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    checkpoint: Checkpoint | None,
    on_step: OnStep | None,
) -> Fitted:
    """Train some of CLIP's own weights, by the names they have in the model."""
    model, tokens = clip.model, task.tokens.to(compute.device)
    scale = model.logit_scale.detach().exp()
    pictures = pictures_of(task, clip, batch_size=options.batch_size, augment=options.augment, seed=seed)

    def gradients(step: int, pixel_values: Tensor, labels: Tensor) -> Tensor:
        with compute.autocast():
            images, classes = image_features(model, pixel_values), text_features(model, tokens)
            logits = cosine_logits(images, classes, scale)
        loss = F.cross_entropy(logits.float(), labels)
        compute.backward(loss)
        return loss

    with trained(parameters):
        curve = minimise(
            gradients,
            torch.optim.AdamW(parameters.values(), lr=options.lr, weight_decay=options.weight_decay),
            step_cosine(steps, last=min(1.0, _LAST_LR / options.lr)),
            pictures,
            compute,
            steps=steps,
            state=dict(parameters),
            checkpoint=checkpoint,
            on_step=on_step,
        )
        return Fitted(
            model=model,
            class_features=class_features(model, task.tokens),
            trainable_parameters=sum(parameter.numel() for parameter in parameters.values()),
            training=curve,
            selection=fixed_beforehand(steps, recipe),
            tower=of_image_tower(parameters),
            text=of_text_tower(parameters),
        )
