"""A transformer block of an ordinary CLIP model, seen by the lean towers: its own weights, nothing copied.

q, k and v read the same input, so that one matrix product serves the three. Their weights are moved into one
(3 d, d) matrix once, of which the model's three parameters become views: saving, merging and PEFT see no difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blocklora.clip.lean.attention import Layout
from blocklora.clip.lean.low_rank import LowRank, base_linear, low_rank
from blocklora.clip.lean.ops import Frozen, linear, mlp
from blocklora.clip.lean.pooled import pooled_attention

__all__ = ["SEEDS", "Block"]

SEEDS = 4  # how many seeds a block uses up: qkv, out, fc1, fc2


@dataclass(frozen=True)
class Block:
    """One encoder layer of a CLIP tower.

    Attributes:
        layer: transformers' layer, with or without adapters.
        qkv: Frozen q, k and v, with the LayerNorm before them.
        activation: Name of the MLP's activation.
    """

    layer: Any
    qkv: Frozen
    activation: str

    @classmethod
    def of(cls, layer: Any, activation: str) -> Block:
        """See a transformers layer as a block; its q, k and v weights become views of one matrix."""
        bases = [base_linear(projection) for projection in _qkv(layer)]
        weight = _side_by_side([base.weight for base in bases])
        bias = _side_by_side([base.bias for base in bases])
        return cls(layer, Frozen(weight, bias, layer.layer_norm1), activation)

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
        seed: int,
        *,
        training: bool,
        recompute_mlp: bool,
    ) -> Tensor:
        """Apply the block.

        Args:
            x: Rows (T, d).
            layout: Which rows attend to which.
            rows: Which rows are asked for (T'); None: all.
            seed: Where the dropout masks come from; the block uses ``SEEDS`` numbers from here on.
            training: Whether adapters drop inputs.
            recompute_mlp: Keep nothing of the MLP's wide inside.

        Returns:
            (T', d).
        """
        qkv_low, out_low, low1, low2 = self.factors(x.dtype, training)
        if rows is None:
            heads = layout.attention(linear(x, self.qkv, qkv_low, seed))
        else:
            heads = pooled_attention(x, self.qkv, qkv_low, seed, rows, layout)
            x = x.index_select(0, rows)
        x = linear(heads, _frozen(self.layer.self_attn.out_proj), out_low, seed + 1).add_(x)
        fc1, fc2 = (_frozen(part) for part in (self.layer.mlp.fc1, self.layer.mlp.fc2))
        fc1 = fc1._replace(norm=self.layer.layer_norm2)
        return mlp(
            x, fc1, fc2, low1, low2, seed + 2, activation=self.activation, recompute=recompute_mlp
        )  # fmt: skip


def _qkv(layer: Any) -> list[nn.Module]:
    attention = layer.self_attn
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def _frozen(layer: nn.Module) -> Frozen:
    base = base_linear(layer)
    return Frozen(base.weight, base.bias)


def _side_by_side(parts: list[nn.Parameter]) -> Tensor:
    """Return three parameters as one tensor that they are views of; they become so the first time."""
    first = parts[0].detach()
    size = len(first)
    together = first.new_empty(0).set_(
        first.untyped_storage(), first.storage_offset(), (size * len(parts), *first.shape[1:]), first.stride()
    ) if _are_views(parts) else None  # fmt: skip
    if together is None:
        together = torch.cat([part.detach() for part in parts])
        for part, view in zip(parts, torch.split(together, size), strict=True):
            part.data = view
    return together


def _are_views(parts: list[nn.Parameter]) -> bool:
    """Return whether parameters lie one behind the other in one storage."""
    first = parts[0]
    return all(
        part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and part.storage_offset() == first.storage_offset() + place * first.numel()
        and part.is_contiguous()
        for place, part in enumerate(parts)
    )
