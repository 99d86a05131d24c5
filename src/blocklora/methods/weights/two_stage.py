"""2SFS: two stages of few-shot adaptation, first the LayerNorms, then the classes (Farina et al., 2025).

Recipe: 300 steps a shot, batches of 32, AdamW 2e-4 with weight decay 1e-2. The first 60% of the steps train the
LayerNorms of both towers, as ``layer-norm`` does; then both towers are frozen, and the class features that they lead
to are trained themselves.
Deviations: each stage has a cosine of its own, from the learning rate to 1e-6, and class features are normalised in
every step. Written from the paper; whether the released code does so was not checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import cosine_logits
from blocklora.clip import Clip, class_features, image_features, text_features
from blocklora.core.device import Compute
from blocklora.methods.settings import need
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.methods.weights import layer_norm
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

__all__ = ["Settings", "fit"]

_LAST_LR = 1e-6


@dataclass(frozen=True)
class Settings(layer_norm.Settings):
    """How to train; the other attributes are those of LayerNorm tuning.

    Attributes:
        first_stage: The share of the steps that train the LayerNorms, in [0, 1].
    """

    first_stage: float = 0.6

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need(0 <= self.first_stage <= 1, "first_stage", self.first_stage, "a share from 0 to 1")


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
    """Train the LayerNorms, then the classes; see ``Method``."""
    model, tokens = clip.model, task.tokens.to(compute.device)
    scale = model.logit_scale.detach().exp()
    parameters = layer_norms(model)
    classes = torch.nn.Parameter(class_features(model, task.tokens).to(compute.device))  # (N, D)
    steps = steps_of(task, options.iterations, 300)
    first = round(options.first_stage * steps)

    def gradients(step: int, pixel_values: Tensor, labels: Tensor) -> Tensor:
        if step == first:  # the towers are done
            classes.data = class_features(model, task.tokens).to(classes)
        with compute.autocast(), torch.set_grad_enabled(step < first):
            images = image_features(model, pixel_values)
            texts = text_features(model, tokens) if step < first else None
        units = F.normalize(classes, dim=-1) if texts is None else texts
        loss = F.cross_entropy(cosine_logits(images, units.to(images.dtype), scale).float(), labels)
        compute.backward(loss)
        return loss

    with trained(parameters):
        last = min(1.0, _LAST_LR / options.lr)
        curve = minimise(
            gradients,
            torch.optim.AdamW(
                [{"params": list(parameters.values())}, {"params": [classes]}],
                lr=options.lr,
                weight_decay=options.weight_decay,
            ),
            [step_cosine(first, last=last), step_cosine(steps - first, last=last, start=first)],
            pictures_of(task, clip, batch_size=options.batch_size, augment=options.augment, seed=seed),
            compute,
            steps=steps,
            state={**parameters, "classes": classes},
            checkpoint=checkpoint,
            on_step=on_step,
        )
        final = (
            class_features(model, task.tokens) if first == steps else F.normalize(classes.detach(), dim=-1)
        )
        return Fitted(
            model=model,
            class_features=final.cpu(),
            trainable_parameters=sum(p.numel() for p in parameters.values()) + classes.numel(),
            training=curve,
            selection=fixed_beforehand(steps, "2SFS"),
            tower=of_image_tower(parameters),
            text=of_text_tower(parameters),
        )
