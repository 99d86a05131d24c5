"""The shape of a CLIP model and its adapters: from a configuration alone, or from the model that is to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blocklora.clip.text_plan import prompt_lengths, text_plan
from blocklora.clip.towers import LeanTowers, trains
from blocklora.core.threads import results_held
from blocklora.training.distributed import by_weight
from blocklora.training.images import TrainingImages
from blocklora.training.memory.costs import TowerShape
from blocklora.training.memory.planner import ModelShape, Workload
from blocklora.training.views import FixedViews

__all__ = ["Adapted", "first_share", "model_shape", "workload"]

Adapted = tuple[Sequence[int], tuple[int, int, int, int]]
"""The adapted blocks of a tower, a run of indices or none, and the ranks of their (q, k, v), out, fc1 and fc2."""


def workload(
    towers: LeanTowers,
    tokens: Tensor,
    images: TrainingImages | FixedViews,
    device: torch.device,
    cores: int,
    ranks: int = 1,
) -> Workload:
    """Describe one training step, or what the first of several ranks does of it; the others do about as much.

    Args:
        towers: The model, with its adapters.
        tokens: Token ids of the class prompts (N, L).
        images: The batches.
        device: Where training runs.
        cores: Cores that read images ahead.
        ranks: Processes that share it.
    """
    model, end = towers.model, int(towers.model.text_model.config.eos_token_id)
    views = images if isinstance(images, FixedViews) else None
    fixed = isinstance(images, FixedViews) or images.fixed
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lengths = prompt_lengths(tokens, end).tolist()
    opening = text_plan(tokens, end, share=towers.prefix_sharing).opening
    return Workload(
        model=model_shape(model.config, towers.trained, trained),
        images=-(-images.batch_size // ranks),
        lengths=tuple(lengths if ranks == 1 else first_share(lengths, opening, ranks)),
        opening=opening,
        number=torch.finfo(towers.dtype).bits // 8,
        on_cpu=device.type != "cuda",
        image_features=fixed and not trains(model.vision_model),
        read_ahead=results_held(cores),
        ranks=ranks,
        classes=None if ranks == 1 else len(lengths),
        views_bytes=(0 if views.folder else views.kept_bytes) if views else None,
    )


def first_share(lengths: Sequence[int], opening: int, ranks: int) -> list[int]:
    """Return the lengths of the prompts that the first of several ranks has, at least one.

    Args:
        lengths: Tokens of every prompt.
        opening: Tokens that all of them begin with, computed once.
        ranks: How many processes share them.
    """
    in_order = sorted(lengths)
    _, last = by_weight([length - opening for length in in_order], ranks)[0]
    return in_order[: max(last, 1)]


def model_shape(config: Any, adapted: Mapping[str, Adapted], trained: int) -> ModelShape:
    """Describe a CLIP model with low-rank adapters.

    Args:
        config: A ``CLIPConfig``.
        adapted: What is adapted in each tower, ``vision`` and ``text``.
        trained: Trainable parameters.
    """
    vision, text = config.vision_config, config.text_config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    return ModelShape(
        vision=_tower(vision, *adapted["vision"]),
        text=_tower(text, *adapted["text"]),
        tokens=tokens,
        side=vision.image_size,
        space=config.projection_dim,
        parameters=_vision_numbers(vision, tokens) + _text_numbers(text) + _projections(config),
        trained=trained,
    )


def _tower(config: Any, blocks: Sequence[int], ranks: tuple[int, int, int, int]) -> TowerShape:
    return TowerShape(
        width=config.hidden_size,
        mlp=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        first=min(blocks, default=config.num_hidden_layers),
        ranks=ranks,
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
