"""What a method changed in the image tower, beside a PEFT adapter: new weights, or deep prompts.

Axes: B = pictures of a batch, D = the width of the shared space, J = layers with prompts, P = prompts a layer,
W = the width of the image tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blocklora.clip import image_features
from blocklora.clip.prompted import prompted_image_features

__all__ = ["TowerChange", "changed_image_features", "is_of_image_tower", "weights_in_place"]

_PROMPTS, _WEIGHT = "prompts", "weight/"


@dataclass(frozen=True)
class TowerChange:
    """A change of the image tower. The model itself keeps its weights, so zero-shot stays at hand.

    Attributes:
        weights: New values of parameters, by their names in a ``CLIPModel``.
        prompts: Vectors (J, P, W) that are read beside the picture in the first J layers.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    prompts: Tensor | None = None

    def __bool__(self) -> bool:
        """Return whether anything is changed."""
        return bool(self.weights) or self.prompts is not None

    def to(self, device: torch.device) -> TowerChange:
        """Return the same change on a device."""
        weights = {name: value.to(device) for name, value in self.weights.items()}
        return TowerChange(weights, None if self.prompts is None else self.prompts.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, to be written; ``from_tensors`` reads it back."""
        prompts = {} if self.prompts is None else {_PROMPTS: self.prompts}
        return prompts | {_WEIGHT + name: value for name, value in self.weights.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TowerChange:
        """Return the change that ``tensors()`` gave."""
        weights = {n.removeprefix(_WEIGHT): value for n, value in tensors.items() if n.startswith(_WEIGHT)}
        return cls(weights, tensors.get(_PROMPTS))


def changed_image_features(model: Any, change: TowerChange, pixel_values: Tensor) -> Tensor:
    """Return unit features (B, D) of pixel values (B, 3, S, S), with a change in place.

    Args:
        model: A ``CLIPModel`` or ``CLIPVisionModelWithProjection``; its weights are as before afterwards.
        change: On the model's device.
        pixel_values: On the model's device.
    """
    with weights_in_place(model, change.weights):
        if change.prompts is None:
            return image_features(model, pixel_values)
        return prompted_image_features(model, pixel_values, change.prompts)


def is_of_image_tower(name: str) -> bool:
    """Return whether a parameter of a ``CLIPModel`` belongs to its image tower."""
    return name.startswith(("vision_model.", "visual_projection."))


@contextmanager
def weights_in_place(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give parameters other values inside; no number is copied."""
    parameters = {name: model.get_parameter(name) for name in weights}
    before = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = before[name]
