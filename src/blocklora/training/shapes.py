"""The shape of a CLIP model and its adapters, from a configuration alone: no weights are needed to plan a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blocklora.training.costs import TowerShape
from blocklora.training.planner import ModelShape

__all__ = ["model_shape"]

_GROUPS = (("q", "k", "v"), ("out",), ("fc1",), ("fc2",))  # layers that one matrix product serves


def model_shape(
    config: Any, *, blocks: Mapping[str, Sequence[int]], targets: Sequence[str], rank: int, trained: int
) -> ModelShape:
    """Describe a CLIP model with low-rank adapters.

    Args:
        config: A ``CLIPConfig``.
        blocks: The adapted blocks of each tower, ``vision`` and ``text``: a run of indices, or none.
        targets: The adapted layers of a block: some of q, k, v, out, fc1, fc2.
        rank: The rank of one adapted layer as it is computed (k of Block-LoRA, k n where arms have their own masks).
        trained: How many numbers are trained.
    """
    vision, text = config.vision_config, config.text_config
    ranks = [rank * sum(target in targets for target in group) for group in _GROUPS]
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    return ModelShape(
        vision=_tower(vision, blocks["vision"], ranks),
        text=_tower(text, blocks["text"], ranks),
        tokens=tokens,
        side=vision.image_size,
        space=config.projection_dim,
        parameters=_vision_numbers(vision, tokens) + _text_numbers(text) + _projections(config),
        trained=trained,
    )


def _tower(config: Any, blocks: Sequence[int], ranks: Sequence[int]) -> TowerShape:
    return TowerShape(
        width=config.hidden_size,
        mlp=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        first=min(blocks, default=config.num_hidden_layers),
        ranks=(ranks[0], ranks[1], ranks[2], ranks[3]),
        adapted=len(blocks),
    )


def _block_numbers(config: Any) -> int:
    """Numbers of all blocks of a tower: four d x d layers, the MLP, two LayerNorms, biases included."""
    d, m = config.hidden_size, config.intermediate_size
    return int(config.num_hidden_layers * (4 * (d * d + d) + 2 * d * m + m + d + 4 * d))


def _vision_numbers(config: Any, tokens: int) -> int:
    d = config.hidden_size
    return _block_numbers(config) + int(d * (config.num_channels * config.patch_size**2 + 1 + tokens + 4))


def _text_numbers(config: Any) -> int:
    rows = config.vocab_size + config.max_position_embeddings + 2
    return _block_numbers(config) + int(config.hidden_size * rows)


def _projections(config: Any) -> int:
    """The two layers into the shared space, and the logit scale."""
    widths = config.vision_config.hidden_size + config.text_config.hidden_size
    return int(config.projection_dim * widths) + 1
