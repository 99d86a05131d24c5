"""Attention among the rows of images or prompts.

Axis letters: B images, L tokens of an image, n prompts of a group, l their tokens after the opening, P tokens of
the opening, T rows in all, H heads, e the width of a head, d = H e, c columns of any kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from blocklora.clip.text_plan import TextPlan

__all__ = ["Images", "Layout", "Prompts"]


class Layout(Protocol):
    """Which rows attend to which."""

    @property
    def heads(self) -> int:
        """H."""
        ...

    def attention(self, qkv: Tensor) -> Tensor:
        """Attention of all rows, from q, k and v side by side: (T, 3 d) -> (T, d)."""
        ...

    def seen(self, z: Tensor) -> list[Tensor]:
        """The rows of z (T, c) that each wanted row attends to: tensors (n, l, c), for n wanted rows each, in order."""
        ...


@dataclass(frozen=True)
class Images:
    """Full attention within each image; the first row of each is wanted.

    Attributes:
        length: L.
        heads: H.
    """

    length: int
    heads: int

    def attention(self, qkv: Tensor) -> Tensor:
        """See ``Layout``."""
        width = qkv.shape[1] // 3
        parts = qkv.view(-1, self.length, 3, self.heads, width // self.heads)  # (B, L, 3, H, e)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))  # of (B, H, L, e)
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(-1, width)  # (B, H, L, e) -> (B L, d)

    def seen(self, z: Tensor) -> list[Tensor]:
        """See ``Layout``: (B, L, c)."""
        return [z.view(-1, self.length, z.shape[1])]


@dataclass(frozen=True)
class Prompts:
    """Causal attention within each prompt, the common opening serving all of them; the last row of each is wanted.

    Attributes:
        plan: How the rows are laid out.
        heads: H.
    """

    plan: TextPlan
    heads: int

    def attention(self, qkv: Tensor) -> Tensor:
        """See ``Layout``.

        Nothing but ``qkv`` is kept for backward: prompts are short, and their attention is cheaply computed again.
        """
        if not (torch.is_grad_enabled() and qkv.requires_grad):
            return self._attention(qkv)
        kept: Tensor = checkpoint(self._attention, qkv, use_reentrant=False, preserve_rng_state=False)
        return kept

    def _attention(self, qkv: Tensor) -> Tensor:
        """``attention`` in ordinary operations, of which autograd saves what it needs."""
        width, plan = qkv.shape[1] // 3, self.plan
        opening, *groups = torch.split(qkv, plan.sizes)
        q0, k0, v0 = self._apart(opening[None])  # of (1, H, P, e)
        outs = []
        if plan.opening:
            outs.append(F.scaled_dot_product_attention(q0, k0, v0, is_causal=True))
        for rows, group in zip(groups, plan.groups, strict=True):
            q, k, v = self._apart(rows.view(group.count, group.length, -1))  # of (n, H, l, e)
            if plan.opening:
                k = torch.cat([k0.expand(group.count, -1, -1, -1), k], 2)  # (n, H, P + l, e)
                v = torch.cat([v0.expand(group.count, -1, -1, -1), v], 2)
            ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=qkv.device)
            outs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=ones.tril(plan.opening)))
        return torch.cat(
            [out.transpose(1, 2).reshape(-1, width) for out in outs]
        )  # of (n, H, l, e) -> (T, d)

    def _apart(self, qkv: Tensor) -> list[Tensor]:
        """q, k and v, of (n, H, l, e) each, from (n, l, 3 d)."""
        parts = qkv.view(*qkv.shape[:2], 3, self.heads, qkv.shape[2] // (3 * self.heads))  # (n, l, 3, H, e)
        return [part.transpose(1, 2) for part in parts.unbind(2)]

    def seen(self, z: Tensor) -> list[Tensor]:
        """See ``Layout``: for each group (n, P + l, c)."""
        opening, *groups = torch.split(z, self.plan.sizes)
        return [
            torch.cat([opening.expand(group.count, -1, -1), rows.view(group.count, group.length, -1)], 1)
            for rows, group in zip(groups, self.plan.groups, strict=True)
        ]
