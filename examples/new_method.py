"""A method of your own, in one file: class prototypes, a mean of what a class is called and what it looks like.

The grid examples/grids/new_method.toml names this file (`methods_from`), and the bench compares it with the others:

    blocklora bench examples/grids/new_method.toml --out results/new_method
    blocklora tables results/new_method
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from blocklora.clip import Clip, class_features
from blocklora.core.device import Compute
from blocklora.methods import Fitted, Options, Task
from blocklora.methods.frozen.on_features import picture_features
from blocklora.training import Checkpoint, OnStep

WEIGHT = 0.5  # of the pictures, against the class's name; fixed beforehand, not tuned


def fit(
    task: Task,
    clip: Clip,
    options: Options,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Average the frozen features of a class's pictures with those of its prompt; nothing is trained."""
    (images,) = picture_features(task.train, clip, compute)  # (M, D), unit; a bench computes them once
    labels = torch.tensor([example.label for example in task.train])
    means = torch.stack([images[labels == label].mean(dim=0) for label in range(len(task.class_names))])
    names = class_features(clip.model, task.tokens)  # (N, D), unit
    return Fitted(
        model=clip.model,
        class_features=F.normalize(WEIGHT * F.normalize(means, dim=-1) + (1 - WEIGHT) * names, dim=-1),
        trainable_parameters=0,
        training=None,
        selection={"settings": f"the weight {WEIGHT} was fixed beforehand"},
    )


METHODS = {"prototypes": fit}
