"""What a method learned about class names, so that it can be asked about classes that it has not seen.

Axes: N = classes, D = the width of the shared space, P = learned vectors, W = the width of the text tower, J = layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.class_prompts import ClassPrompts, prompt_tokens
from blocklora.classifier.heads import CONDITIONAL, Head
from blocklora.classifier.tower import weights_in_place
from blocklora.clip import Clip, class_features, tokenize
from blocklora.core.errors import ConfigError
from blocklora.data import prompts

__all__ = ["TextSide", "other_classes", "template_features"]

_WEIGHT = "weight/"


@dataclass(frozen=True)
class TextSide:
    """How class names become class features; with nothing in it, as the model's text tower says.

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

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but the words, by name, to be written; ``from_tensors`` reads it back."""
        learned = {"context": self.context, "deep": self.deep}
        there = {name: value for name, value in learned.items() if value is not None}
        return there | {_WEIGHT + name: value for name, value in self.weights.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], words: str) -> TextSide:
        """Return what ``tensors()`` gave."""
        weights = {n.removeprefix(_WEIGHT): value for n, value in tensors.items() if n.startswith(_WEIGHT)}
        return cls(weights, tensors.get("context"), tensors.get("deep"), words)


@torch.no_grad()
def other_classes(
    head: Head,
    side: TextSide | None,
    model: Any,
    clip: Clip,
    class_names: Sequence[str],
    templates: Sequence[str],
) -> Head:
    """Return the head of a fitted classifier for other classes, known by their names alone.

    Args:
        head: The classifier's own.
        side: What its method learned about names; None is nothing.
        model: A ``CLIPModel`` with both towers, and with the classifier's adapter in its layers if it has one.
        clip: The tokenizer and how much the text tower reads.
        class_names: N names.
        templates: Sentences with one ``{}``; the mean of their class features predicts. Where the words before the
            name are learned they take their place.

    Raises:
        ConfigError: The method learned the classes that it saw and knows no others.
    """
    if side is None or (head.kind != CONDITIONAL and "class_features" not in head.tensors):
        raise ConfigError(
            "this method learns the classes that it saw and knows no others; fit it to the new ones."
        )
    device = model.logit_scale.device
    n_context = len(side.context) if side.context is not None else 0
    tokens = prompt_tokens(clip, class_names, side.words, n_context)[0].to(device)
    if head.kind == CONDITIONAL:
        return replace(head, tensors={**head.tensors, "tokens": tokens.cpu()}, model=model)
    weights = {name: value.to(device) for name, value in side.weights.items()}
    with weights_in_place(model, weights):
        if side.context is not None:
            deep = None if side.deep is None else side.deep.to(device)
            features = ClassPrompts(model, tokens).features(side.context.to(device), deep).float().cpu()
        else:
            features = template_features(model, clip, class_names, templates)
    return replace(head, tensors={**head.tensors, "class_features": features})


def template_features(model: Any, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Average the unit text features of a class over templates, and make the mean a unit vector again.

    As openai/CLIP ``notebooks/Prompt_Engineering_for_ImageNet.ipynb`` does.

    Args:
        model: A ``CLIPModel``, with or without an adapter in its layers.
        clip: The tokenizer and how much the text tower reads.
        class_names: N names.
        templates: Sentences with one ``{}``.

    Returns:
        Unit features (N, D) on the CPU.
    """
    sentences = [prompts(class_names, template) for template in templates]
    each = [
        class_features(model, tokenize(rows, clip.tokenizer, clip.context_length)[0]) for rows in sentences
    ]  # each (N, D)
    return F.normalize(torch.stack(each).mean(dim=0), dim=-1) if len(each) > 1 else each[0]
