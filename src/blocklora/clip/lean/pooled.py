"""Attention of the last block, only for the few rows that become features, without keys and values.

Axis letters: T rows, W rows of them that are wanted, l rows that a wanted one attends to, d the width of the tower, H
heads, e the width of a head, d = H e, K the rank of the low-rank part of q, k and v together.

With z = [LN(x), A drop(LN(x))] of every row, and M = [W, B], q = M_q z + b_q, and k and v likewise. With few
queries it is cheaper to bring them to the space of z than to compute keys and values from every row of z. For a head:

    q . k            = (M_k^T q) . z + q . b_k       the second is the same for all rows and cancels in softmax
    sum over p v     = M_v (sum over p z) + b_v      the weights p sum to 1

Products of T rows with two d x d matrices become products of W rows with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from blocklora.clip.lean.attention import Layout
from blocklora.clip.lean.low_rank import LowRank, Seed, thin
from blocklora.clip.lean.ops import Frozen, normed

__all__ = ["pooled_attention"]


def pooled_attention(
    x: Tensor, qkv: Frozen, low: LowRank | None, seed: Seed, rows: Tensor, layout: Layout
) -> Tensor:
    """Attention of the wanted rows, from a block's input.

    Only ``x`` is kept for backward; the rest is cheap and is computed again there.

    Args:
        x: (T, d).
        qkv: Frozen q, k and v, with the LayerNorm before them.
        low: Their low-rank part, or None.
        seed: Where the dropout masks come from.
        rows: The wanted rows (W).
        layout: Which rows each of them attends to.

    Returns:
        (W, d).
    """

    def attend(x: Tensor, *factors: Tensor) -> Tensor:
        return _attend(x, qkv, low._replace(A=factors[0], B=factors[1]) if low else None, seed, rows, layout)

    tensors = (x, low.A, low.B) if low else (x,)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return attend(*tensors)
    out: Tensor = checkpoint(attend, *tensors, use_reentrant=False, preserve_rng_state=False)
    return out


def _attend(x: Tensor, qkv: Frozen, low: LowRank | None, seed: Seed, rows: Tensor, layout: Layout) -> Tensor:
    """``pooled_attention`` in ordinary operations, of which autograd saves what it needs."""
    y = normed(x, qkv.norm)[0]
    parts = [y] if low is None else [y, *thin(y, low.A, low.ranks, low.dropouts, seed)]
    z = torch.cat(parts, 1)  # (T, d + K)
    # W and B stay apart, since only B needs a gradient: c is d for W and K for B.
    weights = [weight.to(x.dtype) for weight in qkv.weights]
    matrices = [weights] if low is None else [weights, low.B.chunk(3)]
    heads = [[part.view(layout.heads, -1, part.shape[1]) for part in three] for three in matrices]
    M_q, M_k, M_v = zip(*heads, strict=True)  # each of (H, e, c)
    b_q, _, b_v = qkv.bias(x.dtype).view(3, layout.heads, -1)  # of (H, e)

    q = _apply(M_q, z.index_select(0, rows), "wc,hec->whe") + b_q  # (W, H, e)
    u = torch.cat([torch.einsum("whe,hec->whc", q, matrix) for matrix in M_k], -1)  # (W, H, d + K)
    sums, done = [], 0
    for seen in layout.seen(z):  # (n, l, d + K)
        # One query a head, all in one attention head: queries (n, 1, H, d + K), keys and values (n, 1, l, d + K).
        keys, queries = seen[:, None], u[done : done + len(seen), None]
        sums.append(F.scaled_dot_product_attention(queries, keys, keys, scale=q.shape[2] ** -0.5)[:, 0])
        done += len(seen)
    out: Tensor = _apply(M_v, torch.cat(sums), "whc,hec->whe") + b_v  # (W, H, e)
    return out.flatten(1)


def _apply(M: Sequence[Tensor], z: Tensor, equation: str) -> Tensor:
    """Apply M = [W, B], each (H, e, c), to the matching columns of z; ``equation`` is that of ``torch.einsum``."""
    columns = torch.split(z, [matrix.shape[2] for matrix in M], -1)
    return reduce(torch.add, map(partial(torch.einsum, equation), columns, M))
