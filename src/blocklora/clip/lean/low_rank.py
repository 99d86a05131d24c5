"""The low-rank part of a frozen linear layer, as two plain matrices, whatever adapter it comes from.

Axis letters: d_in and d_out the widths of the linear layer (of q, k and v together where they are fused),
k the rank of one term, K the sum of all ranks.

A term is s B (A drop(x)) on some of the output columns; several adapters, the q, k and v of one fused layer and
the blocks of a Block-LoRA with ``arm_dropout`` are several terms, each with dropout masks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as PeftLoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from blocklora.adapter import BlockLoraLinear
from blocklora.adapter.functional import fold
from blocklora.adapter.masks import PartRows, dropout_masks

__all__ = ["LowRank", "PartSeed", "Seed", "base_linear", "behind", "low_rank", "masks", "thin", "unsupported"]


@dataclass(frozen=True)
class PartSeed:
    """A seed of dropout masks for a part of what goes through a tower together, which gets the masks that it has there.

    Attributes:
        value: The seed.
        rows: Which rows of the tower these are.
        wanted: Which of the rows that are wanted at its end.
    """

    value: int
    rows: PartRows
    wanted: PartRows

    def __add__(self, places: int) -> PartSeed:
        """Return the seed of a later layer."""
        return replace(self, value=self.value + places)


Seed = int | PartSeed
"""Where dropout masks come from: a seed, for all rows or for a part of them."""


def behind(seed: Seed) -> Seed:
    """Return the seed of layers that see the wanted rows only."""
    return seed if isinstance(seed, int) else replace(seed, rows=seed.wanted)


class LowRank(NamedTuple):
    """All terms of one (fused) linear layer.

    Attributes:
        A: Down-projections, one below the other (K, d_in).
        B: Up-projections times their scale, each in its own rows and columns (d_out, K).
        ranks: The k of every term.
        dropouts: The dropout probability of every term; 0 outside of training.
    """

    A: Tensor
    B: Tensor
    ranks: tuple[int, ...]
    dropouts: tuple[float, ...]


class _Term(NamedTuple):
    """A (k, d_in), and B (rows, k) with its scale, on output columns ``first`` to ``first + rows``."""

    A: Tensor
    B: Tensor
    first: int
    dropout: float


def low_rank(layers: Sequence[nn.Module], dtype: torch.dtype, training: bool) -> LowRank | None:
    """Gather the active adapters of layers whose outputs lie side by side.

    Args:
        layers: Linear layers with or without adapters: one, or q, k and v. They read the same input.
        dtype: The type to compute in.
        training: Whether inputs are dropped.

    Returns:
        The terms, differentiable in the adapters' parameters; None where no adapter is active.
    """
    terms: list[_Term] = []
    d_out = 0
    for layer in layers:
        terms += _terms(layer, d_out, training)
        d_out += base_linear(layer).out_features
    if not terms:
        return None
    A = torch.cat([term.A.to(dtype) for term in terms])  # of (k, d_in) -> (K, d_in)
    B = torch.cat(
        [_rows(term.B.to(dtype), term.first, d_out) for term in terms], 1
    )  # of (d_out, k) -> (d_out, K)
    return LowRank(A, B, tuple(len(term.A) for term in terms), tuple(term.dropout for term in terms))


def masks(x: Tensor, dropouts: Sequence[float], seed: Seed) -> Iterator[Tensor | None]:
    """Yield each term's mask, of any shape, that of x (None: nothing is dropped); callers may write over a mask."""
    value, rows = (seed, None) if isinstance(seed, int) else (seed.value, seed.rows)
    generator = torch.Generator(x.device).manual_seed(value)
    draws = {dropout: dropout_masks(x, dropout, generator, rows) for dropout in set(dropouts)}
    for dropout in dropouts:
        yield next(draws[dropout]) if dropout else None


def thin(
    y: Tensor, A: Tensor, ranks: Sequence[int], dropouts: Sequence[float], seed: Seed
) -> Iterator[Tensor]:
    """Yield each term's small product A drop(y), (T, k), of an input (T, d_in); for the rest see ``LowRank``."""
    for mask, down in zip(masks(y, dropouts, seed), torch.split(A, list(ranks)), strict=True):
        yield (y if mask is None else mask.mul_(y)) @ down.T  # (T, d_in) (d_in, k)


def base_linear(layer: nn.Module) -> Any:
    """Return the frozen ``nn.Linear`` inside an adapted layer, or the layer itself."""
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def unsupported(layer: nn.Module) -> str | None:
    """Say why a layer's adapters cannot be gathered; None: they can."""
    if not isinstance(layer, BaseTunerLayer):
        return None if type(layer) is nn.Linear else f"a {type(layer).__name__} in place of a linear layer"
    if type(base_linear(layer)) is not nn.Linear or isinstance(layer.base_layer, BaseTunerLayer):
        return f"an adapter around a {type(layer.base_layer).__name__}"
    if isinstance(layer, BlockLoraLinear):
        return None
    if not isinstance(layer, PeftLoraLinear):
        return f"adapters of the kind {type(layer).__module__}.{type(layer).__name__}"
    if layer.lora_variant or any(layer.lora_bias.values()):
        return "a variant of LoRA (DoRA and the like)"
    return None


def _terms(layer: nn.Module, first: int, training: bool) -> list[_Term]:
    """The terms of one layer's active adapters."""
    if not isinstance(layer, BaseTunerLayer) or layer.disable_adapters or layer.merged:
        return []
    terms: list[_Term] = []
    for name in layer.active_adapters:
        if isinstance(layer, BlockLoraLinear) and name in layer.blocklora_A:
            terms += _block_terms(layer, name, first, training)
        elif isinstance(layer, PeftLoraLinear) and name in layer.lora_A:
            p = getattr(layer.lora_dropout[name], "p", 0.0) if training else 0.0
            B = layer.lora_B[name].weight * layer.scaling[name]
            terms.append(_Term(layer.lora_A[name].weight, B, first, p))
    return terms


def _block_terms(layer: BlockLoraLinear, name: str, first: int, training: bool) -> list[_Term]:
    """One term for a Block-LoRA adapter, or one for each of its blocks where blocks have masks of their own."""
    A, B, scale = layer.blocklora_A[name], layer.blocklora_B[name], layer.scaling[name]
    p = layer.blocklora_dropout[name] if training else 0.0
    if p and layer.arm_dropout[name]:
        return [_Term(A, block * scale, first, p) for block in B.unbind()]
    return [_Term(A, fold(B) * scale, first, p)]


def _rows(B: Tensor, first: int, d_out: int) -> Tensor:
    """Put B (rows, k) into its place among d_out rows of zeros."""
    below = d_out - first - len(B)
    return torch.nn.functional.pad(B, (0, 0, first, below)) if d_out > len(B) else B
