"""Attention on rows that carry q, k and v side by side.

Axis letters: B pictures, L tokens of a picture, n prompts of a group, l their tokens behind the opening, P tokens of
the opening, H heads, e the width of a head, d = H e.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from blocklora.clip.text_plan import TextPlan

__all__ = ["image_attention", "text_attention"]


def image_attention(qkv: Tensor, length: int, heads: int, *, last: bool) -> Tensor:
    """Full attention within each picture.

    Args:
        qkv: (B L, 3 d).
        length: L.
        heads: H.
        last: Only the first token of each picture is asked for.

    Returns:
        (B L, d), or (B, d) where ``last``.
    """
    parts = qkv.view(-1, length, 3, heads, qkv.shape[1] // (3 * heads))  # (B, L, 3, H, e)
    q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))  # of (B, H, L, e)
    q = q[:, :, :1] if last else q
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(-1, qkv.shape[1] // 3)  # (B, H, L, e) -> (B L, d)


def text_attention(qkv: Tensor, plan: TextPlan, heads: int, *, last: bool) -> Tensor:
    """Causal attention within each prompt, the common opening's keys and values serving all of them.

    Nothing but ``qkv`` is kept for backward: prompts are short, and their attention is cheaply computed again.

    Args:
        qkv: (T, 3 d), rows as in ``plan``.
        plan: How the rows are laid out.
        heads: H.
        last: Only the end-of-text row of each prompt is asked for.

    Returns:
        (T, d), or (N, d) where ``last``.
    """
    if not (torch.is_grad_enabled() and qkv.requires_grad):
        return _text_attention(qkv, plan, heads, last)
    kept: Tensor = checkpoint(
        _text_attention, qkv, plan, heads, last, use_reentrant=False, preserve_rng_state=False
    )
    return kept


def _text_attention(qkv: Tensor, plan: TextPlan, heads: int, last: bool) -> Tensor:
    """``text_attention``, keeping what autograd likes."""
    width = qkv.shape[1] // 3
    opening, *groups = torch.split(qkv, plan.sizes)
    q0, k0, v0 = (part.transpose(0, 1) for part in opening.view(-1, 3, heads, width // heads).unbind(1))
    outs = []  # q0, k0, v0: (H, P, e)
    if plan.opening and not last:
        out = F.scaled_dot_product_attention(q0[None], k0[None], v0[None], is_causal=True)
        outs.append(out[0].transpose(0, 1).reshape(-1, width))  # (1, H, P, e) -> (P, d)
    for rows, group in zip(groups, plan.groups, strict=True):
        n, length = group.count, group.length
        parts = rows.view(n, length, 3, heads, width // heads)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))  # of (n, H, l, e)
        if plan.opening:
            k = torch.cat([k0.expand(n, -1, -1, -1), k], 2)  # (n, H, P + l, e)
            v = torch.cat([v0.expand(n, -1, -1, -1), v], 2)
        if last:
            out = F.scaled_dot_product_attention(q[:, :, -1:], k, v)
        else:
            ones = torch.ones(length, plan.opening + length, dtype=torch.bool, device=qkv.device)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=ones.tril(plan.opening))
        outs.append(out.transpose(1, 2).reshape(-1, width))  # (n, H, l, e) -> (n l, d)
    return torch.cat(outs)
