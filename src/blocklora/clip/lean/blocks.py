"""A transformer block of an ordinary CLIP model, as the lean towers compute it: the model's own modules, unchanged.

q, k and v read the same input, so that one matrix product serves the three. Their weights are put on top of each
other for the time of that product only, so that the model's parameters stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blocklora.clip.lean.attention import Layout
from blocklora.clip.lean.low_rank import LowRank, Seed, base_linear, behind, low_rank
from blocklora.clip.lean.ops import Frozen, linear, mlp
from blocklora.clip.lean.pooled import pooled_attention

__all__ = ["SEEDS", "Block"]

SEEDS = 4  # how many seeds a block uses up: qkv, out, fc1, fc2


@dataclass(frozen=True)
class Block:
    """One encoder layer of a CLIP tower.

    Attributes:
        layer: transformers' layer, with or without adapters.
        activation: Name of the MLP's activation.
    """

    layer: Any
    activation: str

    @property
    def trained(self) -> bool:
        """Whether any of its adapters is trained."""
        return any(parameter.requires_grad for parameter in self.layer.parameters())

    def factors(self, dtype: torch.dtype, training: bool) -> list[LowRank | None]:
        """The low-rank parts of (q, k, v), out, fc1 and fc2, differentiable in the adapters' parameters."""
        attention, wide = self.layer.self_attn, self.layer.mlp
        groups = (_qkv(self.layer), [attention.out_proj], [wide.fc1], [wide.fc2])
        return [low_rank(group, dtype, training) for group in groups]

    def __call__(
        self,
        x: Tensor,
        layout: Layout,
        rows: Tensor | None,
        seed: Seed,
        *,
        training: bool,
        recompute_mlp: bool,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: Rows (T, d).
            layout: Which rows attend to which.
            rows: Which rows to return (T'); None: all.
            seed: Where the dropout masks come from; the block uses ``SEEDS`` seeds from this one on.
            training: Whether adapters drop inputs.
            recompute_mlp: Keep nothing of the MLP's wide inside for backward.

        Returns:
            (T', d).
        """
        attention, wide = self.layer.self_attn, self.layer.mlp
        qkv_low, out_low, low1, low2 = self.factors(x.dtype, training)
        qkv = _frozen(*_qkv(self.layer), norm=self.layer.layer_norm1)
        if rows is None:
            heads = layout.attention(linear(x, qkv, qkv_low, seed))
        else:
            heads = pooled_attention(x, qkv, qkv_low, seed, rows, layout)
            x, seed = x.index_select(0, rows), behind(seed)
        x = linear(heads, _frozen(attention.out_proj), out_low, seed + 1).add_(x)
        fc1, fc2 = _frozen(wide.fc1, norm=self.layer.layer_norm2), _frozen(wide.fc2)
        return mlp(
            x, fc1, fc2, low1, low2, seed + 2, activation=self.activation, recompute=recompute_mlp
        )  # fmt: skip


def _qkv(layer: Any) -> list[nn.Module]:
    attention = layer.self_attn
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def _frozen(*layers: nn.Module, norm: nn.LayerNorm | None = None) -> Frozen:
    bases = [base_linear(layer) for layer in layers]
    return Frozen(tuple(base.weight for base in bases), tuple(base.bias for base in bases), norm)
