"""What methods that train CLIP's own weights share: which ones, and how the trained values are taken out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from blocklora.classifier.text_side import TextSide
from blocklora.classifier.tower import TowerChange, is_of_image_tower
from blocklora.clip import Clip
from blocklora.methods.task import Task
from blocklora.training import TrainingPictures
from blocklora.training.pictures import Augment

__all__ = ["layer_norms", "of_image_tower", "of_text_tower", "pictures_of", "steps_of", "trained"]

_MOST_SHOTS = 16


def layer_norms(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weights and biases of every LayerNorm of both towers, by name."""
    return {
        f"{name}.{own}": parameter
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for own, parameter in module.named_parameters()
    }


@contextmanager
def trained(parameters: dict[str, torch.nn.Parameter]) -> Iterator[None]:
    """Let these parameters be trained inside; afterwards they are frozen, with the values of before."""
    before = {name: parameter.data for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(False)
            parameter.data, parameter.grad = before[name], None


def of_image_tower(parameters: dict[str, torch.nn.Parameter]) -> TowerChange:
    """Return the values that the image tower's parameters among these have now, as a change of the tower."""
    weights: dict[str, Tensor] = {
        name: parameter.detach().clone() for name, parameter in parameters.items() if is_of_image_tower(name)
    }
    return TowerChange(weights)


def of_text_tower(parameters: dict[str, torch.nn.Parameter]) -> TextSide:
    """Return the values that the text tower's parameters among these have now."""
    weights = {n: p.detach().clone() for n, p in parameters.items() if not is_of_image_tower(n)}
    return TextSide(weights)


def pictures_of(
    task: Task, clip: Clip, *, batch_size: int, augment: Augment | None, seed: int
) -> TrainingPictures:
    """Return batches of training pictures; with ``augment`` None they are mirrored where that fits."""
    chosen: Augment = augment or ("crop-flip" if task.flip else "crop")
    return TrainingPictures(task.train, clip.processor, batch_size=batch_size, augment=chosen, seed=seed)


def steps_of(task: Task, iterations: int | None, each_shot: int) -> int:
    """Return how many steps to train: as given, or so many for each shot, of which 16 count at most."""
    return iterations or each_shot * min(task.shots, _MOST_SHOTS)
