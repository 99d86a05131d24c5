"""Weighted sums of adapters, on their folded factors: what PEFT's ``add_weighted_adapter`` gives for plain LoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blocklora.core.errors import ConfigError

__all__ = ["COMBINATIONS", "Folded", "combine", "combined_rank"]

COMBINATIONS = ("cat", "linear")


class Folded(NamedTuple):
    """One adapter of one layer as a plain LoRA: A (k, d_in), B (d_out, k), its scale, and its weight in the sum."""

    A: Tensor
    B: Tensor
    scale: float
    weight: float


def combined_rank(ranks: Sequence[int], how: str) -> int:
    """Rank of the combination of adapters of these ranks.

    Args:
        ranks: Rank k of each adapter, at least one.
        how: "cat" or "linear".

    Returns:
        The sum of the ranks for "cat", their common value for "linear".

    Raises:
        ConfigError: The way is unknown, or "linear" meets different ranks.
    """
    if how not in COMBINATIONS:
        raise ConfigError(f"Invalid combination_type: {how}; expected one of {', '.join(COMBINATIONS)}.")
    if how == "cat":
        return sum(ranks)
    if len(set(ranks)) != 1:
        raise ConfigError(
            f"All adapters must have the same rank r / n_blocks when using combination_type linear, got "
            f"{sorted(set(ranks))}; use cat."
        )
    return ranks[0]


def combine(parts: Sequence[Folded], how: str) -> tuple[Tensor, Tensor]:
    """Combine adapters of one layer into one, with scale 1.

    "cat" is exact, B A = sum_j w_j s_j B_j A_j. "linear" adds the factors, A = sum_j sign(w_j s_j) sqrt|w_j s_j| A_j
    and B = sum_j sqrt|w_j s_j| B_j: PEFT's approximation, equal to it on the folded adapters.

    Args:
        parts: The adapters, at least one.
        how: "cat" or "linear".

    Returns:
        A (k, d_in) and B (1, d_out, k) of the combination.
    """
    factors = [part.weight * part.scale for part in parts]
    if how == "cat":
        A = torch.cat([part.A * factor for part, factor in zip(parts, factors, strict=True)], 0)
        return A, torch.cat([part.B for part in parts], 1).unsqueeze(0)
    roots = [math.sqrt(abs(factor)) for factor in factors]
    signed = [math.copysign(root, factor) for root, factor in zip(roots, factors, strict=True)]
    A = torch.stack([part.A * root for part, root in zip(parts, signed, strict=True)]).sum(0)
    B = torch.stack([part.B * root for part, root in zip(parts, roots, strict=True)]).sum(0, keepdim=True)
    return A, B
