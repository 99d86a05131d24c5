"""What a method changed in the two towers, beside a PEFT adapter: facts that are saved, and that predictions follow.

Axes: J = layers with learned vectors, P = vectors a layer, V and W = widths of the image and text tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blocklora.clip import with_weights

__all__ = ["ImageChange", "TextChange", "is_of_image_tower"]

_PROMPTS, _WEIGHT = "prompts", "weight/"


@dataclass(frozen=True)
class ImageChange:
    """What was changed in the image tower. The base model itself keeps its weights.

    Attributes:
        weights: New values of parameters, by their names in a ``CLIPModel``.
        prompts: Vectors (J, P, V) that are read beside the image in the first J layers.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    prompts: Tensor | None = None

    def __bool__(self) -> bool:
        """Return whether anything is changed."""
        return bool(self.weights) or self.prompts is not None

    def to(self, device: torch.device) -> ImageChange:
        """Return the same change on a device."""
        weights = {name: value.to(device) for name, value in self.weights.items()}
        return ImageChange(weights, None if self.prompts is None else self.prompts.to(device))

    def check(self, model: Any) -> None:
        """Raise a ValueError that names what does not fit the image tower of a model, whole or alone."""
        if self.weights:
            with_weights(model, self.weights)
        if self.prompts is not None:
            config = model.vision_model.config
            _need_vectors(_PROMPTS, self.prompts, config.num_hidden_layers, config.hidden_size)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, to be written; ``from_tensors`` reads it back."""
        prompts = {} if self.prompts is None else {_PROMPTS: self.prompts}
        return prompts | _prefixed(self.weights)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ImageChange:
        """Return the change that ``tensors()`` gave.

        Raises:
            ValueError: A tensor has another name than ``tensors()`` gives.
        """
        _refuse_others(tensors, (_PROMPTS,))
        return cls(_without_prefix(tensors), tensors.get(_PROMPTS))


@dataclass(frozen=True)
class TextChange:
    """How class names become class features; with nothing in it, as the base model's text tower says.

    Attributes:
        weights: New values of the text tower's parameters, by their names in a ``CLIPModel``.
        context: Learned vectors before the class name (P, W).
        deep: Those that replace them before layers 1 to J - 1 (J - 1, P, W).
        words: The words that the vectors started from; those that they did not replace stay.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    context: Tensor | None = None
    deep: Tensor | None = None
    words: str = ""

    def check(self, model: Any) -> None:
        """Raise a ValueError that names what does not fit the text tower of a whole model."""
        if self.weights:
            with_weights(model, self.weights)
        config = model.text_model.config
        if self.context is not None:
            _need_vectors("context", self.context[None], 1, config.hidden_size)
        if self.deep is not None:
            _need_vectors("deep", self.deep, config.num_hidden_layers - 1, config.hidden_size)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but the words, by name, to be written; ``from_tensors`` reads it back."""
        learned = {"context": self.context, "deep": self.deep}
        return {name: value for name, value in learned.items() if value is not None} | _prefixed(self.weights)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], words: str) -> TextChange:
        """Return what ``tensors()`` gave.

        Raises:
            ValueError: A tensor has another name than ``tensors()`` gives.
        """
        _refuse_others(tensors, ("context", "deep"))
        return cls(_without_prefix(tensors), tensors.get("context"), tensors.get("deep"), words)


def is_of_image_tower(name: str) -> bool:
    """Return whether a parameter of a model of two towers belongs to its image tower."""
    return name.startswith(("vision_model.", "visual_projection."))


def _prefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_WEIGHT + name: value for name, value in weights.items()}


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(_WEIGHT): value for n, value in tensors.items() if n.startswith(_WEIGHT)}


def _need_vectors(name: str, vectors: Tensor, layers: int, width: int) -> None:
    """Raise unless vectors (J, P, W) are of a width, for at most so many layers."""
    if vectors.ndim != 3 or len(vectors) > layers or vectors.shape[2] != width:
        raise ValueError(
            f"the tensor '{name}' is {tuple(vectors.shape)}; expected vectors of width {width} for at most "
            f"{layers} layers"
        )


def _refuse_others(tensors: Mapping[str, Tensor], known: tuple[str, ...]) -> None:
    """Raise at a tensor that nothing would use."""
    for name in tensors:
        if name not in known and not name.startswith(_WEIGHT):
            raise ValueError(f"the tensor '{name}' is not one of {', '.join(known)} or {_WEIGHT}NAME")
