"""Which models, with the adapters that they have, the lean towers can compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from blocklora.clip.lean.low_rank import base_linear, unsupported
from blocklora.clip.lean.ops import ACTIVATIONS

__all__ = ["why_not_lean"]

_MODELS = ("clip", "clip_vision_model", "clip_text_model")
_LINEAR = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def why_not_lean(model: Any) -> str | None:
    """Say why a model, with the adapters it has now, cannot go through ``LeanTower``; None: it can.

    Args:
        model: A ``CLIPModel``, ``CLIPVisionModelWithProjection``, or any other model.
    """
    return next(_reasons(model), None)


def _reasons(model: Any) -> Iterator[str]:
    """Every reason against a model; a later check relies on the earlier ones."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in _MODELS:
        yield f"it is a model of the type {kind}"
        return
    towers = [model.get_submodule(name) for name in ("vision_model", "text_model") if hasattr(model, name)]
    for tower in towers:
        yield from _of_tower(tower)
    layers = {layer for tower in towers for layer in _linear_layers(tower)}
    if _trains_more(model, layers):
        yield "it trains more than low-rank adapters in its blocks"
    tuned = {part for part in model.modules() if isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper)}
    if tuned - layers:
        yield "it has adapters outside of the linear layers of its blocks"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        yield "something is hooked into its forward"


def _of_tower(tower: Any) -> Iterator[str]:
    """Every reason against one tower, with its adapters."""
    if tower.config.hidden_act not in ACTIVATIONS:
        yield f"its activation is {tower.config.hidden_act}"
    if tower.config.attention_dropout:
        yield "it drops attention weights"
    for reason in map(unsupported, _linear_layers(tower)):
        if reason:
            yield f"it has {reason}"


def _linear_layers(tower: Any) -> Iterator[nn.Module]:
    """The linear layers of all blocks of a tower, where low-rank adapters may be."""
    return (layer.get_submodule(path) for layer in tower.encoder.layers for path in _LINEAR)


def _trains_more(model: nn.Module, layers: set[nn.Module]) -> bool:
    """Return whether anything is trained that is not an adapter in one of the layers."""
    adapters = {
        parameter
        for layer in layers
        for parameter in set(layer.parameters()) - set(base_linear(layer).parameters())
    }
    return any(parameter.requires_grad for parameter in set(model.parameters()) - adapters)
