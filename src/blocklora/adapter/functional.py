"""The maths of Block-LoRA as pure functions on tensors.

Axis letters used in this file: T tokens (all leading axes of the input), d_in and d_out the widths of the
frozen layer, n blocks, k rank of one block, m = n where every block has its own dropout mask and 1 otherwise.

    update(x) = s * sum_i B_i (A drop(x))            A (k, d_in),  B (n, d_out, k)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocklora.adapter.masks import draw_seed, dropout_mask

__all__ = [
    "block_lora",
    "block_lora_reference",
    "fold",
    "init_factors",
]


def fold(B: Tensor) -> Tensor:
    """Sum the blocks: the one up-projection that a trained Block-LoRA is equal to.

    Args:
        B: Up-projections of the blocks, shape (n, d_out, k).

    Returns:
        The sum over the blocks, shape (d_out, k).
    """
    return B[0] if B.shape[0] == 1 else B.sum(0)


def init_factors(A: Tensor, B: Tensor, init: bool | str) -> None:
    """Fill the two factors in place, from torch's global random stream.

    ``True``: A Kaiming-uniform (a = sqrt 5), B zero, as LoRA. ``"gaussian"``: A normal with deviation 1 / k,
    the blocks of B distinct Gaussians (deviation about 1/64) that sum to exactly zero, so that the start is the
    frozen model's function without touching its weights. ``False``: A as for True and B random, a start that
    changes the model: for tests of loading and merging.

    Args:
        A: Shared down-projection, shape (k, d_in).
        B: Up-projections of the blocks, shape (n, d_out, k).
        init: Which start to use.
    """
    with torch.no_grad():
        if init == "gaussian":
            A.normal_(std=1 / A.shape[0])
            B.copy_(_zero_sum_gaussian(B))
            return
        torch.nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        if init:
            B.zero_()
        else:
            bound = 1 / math.sqrt(B.shape[0] * B.shape[2])
            B.uniform_(-bound, bound)


def _zero_sum_gaussian(B: Tensor) -> Tensor:
    """Gaussians like B whose sum over the blocks is exactly zero, whatever the order and the type."""
    n = B.shape[0]
    units = torch.empty_like(B, dtype=torch.float32).normal_(std=16).round()  # whole numbers: sums are exact
    total = units.sum(0)
    units -= torch.floor(total / n)
    units -= (torch.arange(n, device=B.device).view(n, 1, 1) < torch.remainder(total, n)).float()
    return (units / 1024).to(B.dtype)


def block_lora_reference(
    x: Tensor, A: Tensor, B: Tensor, scale: float, masks: list[Tensor] | None = None
) -> Tensor:
    """The update by its formula, one block after another, in ordinary operations.

    Args:
        x: Input, shape (..., d_in).
        A: Shared down-projection, shape (k, d_in).
        B: Up-projections of the blocks, shape (n, d_out, k).
        scale: s, any real number.
        masks: None, one mask for all blocks, or one for each block, every one like x.

    Returns:
        s * sum_i B_i (A (mask_i * x)), shape (..., d_out).
    """
    if masks is None:
        return F.linear(F.linear(x, A), fold(B)) * scale
    if len(masks) == 1:
        return F.linear(F.linear(x * masks[0], A), fold(B)) * scale
    blocks = [F.linear(F.linear(x * mask, A), block) for mask, block in zip(masks, B, strict=True)]
    return torch.stack(blocks).sum(0) * scale


def block_lora(
    x: Tensor, A: Tensor, B: Tensor, scale: float, *, dropout: float = 0.0, arm_dropout: bool = False
) -> Tensor:
    """The update of one layer, saving for backward only the input and the small product A x.

    Dropout masks are drawn from a seed and drawn again in backward. Under ``torch.compile``, and on
    the meta device, the plain formula is used. Gradients of gradients are not available.

    Args:
        x: Input, shape (..., d_in).
        A: Shared down-projection, shape (k, d_in).
        B: Up-projections of the blocks, shape (n, d_out, k).
        scale: s, any real number.
        dropout: Probability of zeroing an input, in [0, 1); 0 when not training.
        arm_dropout: Give every block its own mask.

    Returns:
        The update, shape (..., d_out), in the type of the factors, or autocast's where it is on.
    """
    separate = bool(dropout) and arm_dropout and B.shape[0] > 1
    if torch.compiler.is_compiling() or x.is_meta:  # meta tensors know no autocast and no random stream
        x = x.to(A.dtype)
        masks = [F.dropout(torch.ones_like(x), dropout) for _ in range(B.shape[0] if separate else 1)]
        return block_lora_reference(x, A, B, scale, masks if dropout else None)
    dtype = A.dtype
    if torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    settings = _Settings(scale, dropout, separate, draw_seed() if dropout else 0, dtype)
    update: Tensor = _BlockLora.apply(x, A, B, settings)  # type: ignore[no-untyped-call]
    return update


class _Settings(NamedTuple):
    """What one call needs beside its tensors; dtype is the type to compute in."""

    scale: float
    dropout: float
    separate: bool
    seed: int
    dtype: torch.dtype


def _masks(like: Tensor, count: int, settings: _Settings) -> Iterator[Tensor | None]:
    """Draw the masks of one call, the same ones every time; None where nothing is dropped."""
    if not settings.dropout:
        yield None
        return
    generator = torch.Generator(like.device).manual_seed(settings.seed)
    for _ in range(count):
        yield dropout_mask(like, settings.dropout, generator)


def _drop(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _side_by_side(B: Tensor, separate: bool) -> Tensor:
    """Lay the blocks side by side (d_out, m k), or add them up where they share one mask (m = 1)."""
    if not separate:
        return fold(B)
    n, d_out, k = B.shape
    return B.permute(1, 0, 2).reshape(d_out, n * k)  # (n, d_out, k) -> (d_out, n k)


class _BlockLora(torch.autograd.Function):
    """Forward and backward of the update. Types are explicit, so that autocast changes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, settings: _Settings) -> Tensor:
        count = B.shape[0] if settings.separate else 1
        with torch.autocast(x.device.type, enabled=False):
            y, down = x.to(settings.dtype), A.to(settings.dtype)
            small = [F.linear(_drop(y, mask), down) for mask in _masks(y, count, settings)]
            h = small[0] if count == 1 else torch.cat(small, -1)  # m of (..., k) -> (..., m k)
            out = F.linear(h, _side_by_side(B.to(settings.dtype), settings.separate))
            out = out if settings.scale == 1 else out.mul_(settings.scale)
        need_A, need_B = ctx.needs_input_grad[1:3]
        ctx.save_for_backward(x if need_A else None, h if need_B else None, A, B)
        ctx.call = settings, count, x.shape, x.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, h, A, B = ctx.saved_tensors
        settings, count, shape, x_dtype = ctx.call
        need_x, need_A, need_B = ctx.needs_input_grad[:3]
        n, d_out, k = B.shape
        grad_x = grad_A = grad_B = None
        with torch.autocast(grad.device.type, enabled=False):
            g = grad.to(settings.dtype).reshape(-1, d_out)  # (..., d_out) -> (T, d_out)
            if need_B:
                up = (g.T @ h.reshape(-1, count * k)).mul_(settings.scale)  # (d_out, T) (T, m k)
                grad_B = up.to(B.dtype).view(d_out, count, k).permute(1, 0, 2).expand(n, d_out, k)
            if need_x or need_A:
                small = (g @ _side_by_side(B.to(settings.dtype), settings.separate)).mul_(settings.scale)
                y = None if x is None else x.to(settings.dtype)
                like = g.new_empty(()).expand(shape) if y is None else y
                for part, mask in zip(small.chunk(count, -1), _masks(like, count, settings), strict=True):
                    if y is not None:  # (k, T) (T, d_in)
                        grad_A = _add(grad_A, part.T @ _drop(y, mask).reshape(-1, shape[-1]))
                    if need_x:  # (T, k) (k, d_in) -> (..., d_in)
                        grad_x = _add(grad_x, _drop((part @ A.to(settings.dtype)).view(shape), mask))
        return _cast(grad_x, x_dtype), _cast(grad_A, A.dtype), grad_B, None


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _cast(grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if grad is None else grad.to(dtype)
