"""The two heavy pieces of a transformer block, each with a backward that keeps as little as it can.

Axis letters: T rows (tokens of all images or prompts, one after another), d_in and d_out the widths of a linear
layer, K the rank of its low-rank part.

    linear(x) = W y + b + B (A drop(y))          y = LayerNorm(x), or x itself
    mlp(x)    = x + fc2(act(fc1(LayerNorm(x))))   each with a low-rank part or without

Kept for backward are the input x, the LayerNorm's statistics and the small product A drop(y); the LayerNorm and
the masks are computed again. quick_gelu(u) = silu(c u) / c with c = 1.702: the factors c and 1 / c go into the
LayerNorm before and the sum behind, so that only the argument of one silu is kept and no weight is scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from blocklora.clip.lean.low_rank import LowRank, Seed, masks, thin

__all__ = ["ACTIVATIONS", "Frozen", "linear", "mlp", "normed"]


class _Activation(NamedTuple):
    """act(u) = f(c u) / c: f, its backward (grad, c u) -> grad, and c."""

    function: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    factor: float


def _silu_backward(grad: Tensor, u: Tensor) -> Tensor:
    """Gradient of silu's argument, written over that of its value: the tensor is wide, and it is not needed again."""
    out: Tensor = torch.ops.aten.silu_backward.grad_input(grad, u, grad_input=grad)
    return out


ACTIVATIONS = {
    "quick_gelu": _Activation(F.silu, _silu_backward, 1.702),
    "gelu": _Activation(F.gelu, torch.ops.aten.gelu_backward, 1.0),
}
"""The activations that the lean towers know, by transformers' names."""


class Frozen(NamedTuple):
    """Frozen linear layers that read the same input and write side by side: one, or q, k and v.

    Attributes:
        weights: The model's own parameters, each (rows, d_in); the rows of all are d_out.
        biases: Likewise, each (rows,).
        norm: The LayerNorm before them, if there is one.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    norm: nn.LayerNorm | None = None

    def weight(self, dtype: torch.dtype) -> Tensor:
        """All weights as one matrix (d_out, d_in), for one matrix product; to be used at once, not kept."""
        return _joined(self.weights, dtype)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """All biases (d_out,)."""
        return _joined(self.biases, dtype)


def _joined(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """One parameter as it is, or several in a new tensor: the model's own stay where they are."""
    return parts[0].to(dtype) if len(parts) == 1 else torch.cat([part.to(dtype) for part in parts])


def linear(x: Tensor, frozen: Frozen, low: LowRank | None, seed: Seed) -> Tensor:
    """Apply a frozen linear layer, the LayerNorm before it, and its low-rank part.

    Args:
        x: Input (T, d_in).
        frozen: The layer; its weights take the type of x.
        low: The low-rank part, or None.
        seed: Where the dropout masks come from.

    Returns:
        (T, d_out).
    """
    out: Tensor = _Linear.apply(x, *_factors(low), _call(frozen, low, seed))  # type: ignore[no-untyped-call]
    return out


def mlp(
    x: Tensor,
    fc1: Frozen,
    fc2: Frozen,
    low1: LowRank | None,
    low2: LowRank | None,
    seed: Seed,
    *,
    activation: str,
    recompute: bool,
) -> Tensor:
    """Apply LayerNorm, two linear layers with an activation between them, and the residual.

    Args:
        x: Input (T, d).
        fc1: Up-projection, with the LayerNorm before it.
        fc2: Down-projection.
        low1: Low-rank part of ``fc1``, or None.
        low2: Low-rank part of ``fc2``, or None.
        seed: Where the dropout masks come from.
        activation: A key of ``ACTIVATIONS``.
        recompute: Keep nothing of the wide inside; compute it again in backward.

    Returns:
        (T, d).
    """
    calls = _call(fc1, low1, seed), _call(fc2, low2, seed + 1)
    out: Tensor = _Mlp.apply(  # type: ignore[no-untyped-call]
        x, *_factors(low1), *_factors(low2), calls, ACTIVATIONS[activation], recompute
    )
    return out


class _Call(NamedTuple):
    """What one linear layer needs beside its tensors: ranks and dropouts are those of its low-rank terms."""

    frozen: Frozen
    ranks: tuple[int, ...]
    dropouts: tuple[float, ...]
    seed: Seed


def _call(frozen: Frozen, low: LowRank | None, seed: Seed) -> _Call:
    return _Call(frozen, (), (), seed) if low is None else _Call(frozen, low.ranks, low.dropouts, seed)


def _factors(low: LowRank | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if low is None else (low.A, low.B)


def normed(
    x: Tensor, norm: nn.LayerNorm | None, times: float = 1.0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``times`` LayerNorm of x (..., d), and x's mean and reciprocal deviation; x itself where there is none."""
    if norm is None:
        return x, None, None
    weight, bias = (norm.weight * times).to(x.dtype), (norm.bias * times).to(x.dtype)
    return torch.native_layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _norm_backward(
    grad: Tensor, x: Tensor, norm: nn.LayerNorm, mean: Tensor | None, rstd: Tensor | None
) -> Tensor:
    """Gradient of a LayerNorm's input."""
    weight, bias, shape = norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.normalized_shape
    found: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
        grad, x, shape, mean, rstd, weight, bias, [True, False, False]
    )
    return found[0]


def _apply(
    y: Tensor, A: Tensor | None, B: Tensor | None, call: _Call, times: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Apply a linear layer to an input that is ``times`` too large; the output is ``times`` too large as well.

    Returns:
        W y + times b + B (A drop(y)), and the small product A drop(y) / times (T, K).
    """
    weight, bias = call.frozen.weight(y.dtype), call.frozen.bias(call.frozen.biases[0].dtype)
    bias = (bias * times).to(y.dtype)
    if A is None or B is None:
        return torch.addmm(bias, y, weight.T), None
    small = thin(y, A, call.ranks, call.dropouts, call.seed)
    # The bias is one more column of the small product, which saves a pass over the wide output.
    h = torch.cat([*small, y.new_ones(len(y), 1)], 1)  # (T, K + 1)
    out = (y @ weight.T).addmm_(h, torch.cat([B, bias[:, None]], 1).T)
    return out, h[:, :-1] / times


def _backward(
    grad: Tensor,
    y: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    B: Tensor | None,
    call: _Call,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of y, A and B, given that of W y + b + B (A drop(y)); y is only needed for the low-rank part's."""
    need_y, need_A, need_B = needs
    grad_y = grad @ call.frozen.weight(grad.dtype) if need_y else None
    if A is None or B is None or y is None:
        return grad_y, None, None
    # Thin products are computed transposed, so that memory is read along rows: several times faster on a CPU.
    grad_B = (h.T @ grad).T if need_B and h is not None else None  # (K, T) (T, d_out) -> (d_out, K)
    if not (need_y or need_A):
        return None, None, grad_B
    h_grad = (B.T.contiguous() @ grad.T).T  # (K, d_out) (d_out, T) -> (T, K)
    small = torch.split(h_grad, list(call.ranks), 1)  # -> of (T, k)
    grads_A = []
    terms = zip(masks(y, call.dropouts, call.seed), small, torch.split(A, list(call.ranks)), strict=True)
    for mask, g, down in terms:
        if grad_y is not None:
            grad_y = grad_y.addmm_(g, down) if mask is None else grad_y.addcmul_(g @ down, mask)
        grads_A.append(g.T @ (y if mask is None else mask.mul_(y)))  # (k, T) (T, d_in)
    return grad_y, torch.cat(grads_A), grad_B


class _Linear(torch.autograd.Function):
    """``linear``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor | None, B: Tensor | None, call: _Call) -> Tensor:
        y, mean, rstd = normed(x, call.frozen.norm)
        out, h = _apply(y, A, B, call)
        # Without a low-rank part only the LayerNorm's backward needs x, and without a LayerNorm nothing does.
        keep = A is not None or call.frozen.norm is not None
        ctx.save_for_backward(x if keep else None, mean, rstd, h, A, B)
        ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, mean, rstd, h, A, B = ctx.saved_tensors
        norm = ctx.call.frozen.norm
        y = None if A is None else normed(x, norm)[0]
        grad_x, grad_A, grad_B = _backward(grad, y, h, A, B, ctx.call, ctx.needs_input_grad[:3])
        if grad_x is not None and norm is not None:
            grad_x = _norm_backward(grad_x, x, norm, mean, rstd)
        return grad_x, grad_A, grad_B, None


class _Mlp(torch.autograd.Function):
    """``mlp``. Beside x, the activation's argument c u is kept, or computed again where ``recompute``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        A1: Tensor | None,
        B1: Tensor | None,
        A2: Tensor | None,
        B2: Tensor | None,
        calls: tuple[_Call, _Call],
        activation: _Activation,
        recompute: bool,
    ) -> Tensor:
        c = activation.factor
        y, mean, rstd = normed(x, calls[0].frozen.norm, c)
        cu, h1 = _apply(y, A1, B1, calls[0], c)
        del y
        out, h2 = _apply(activation.function(cu), A2, B2, calls[1], c)  # also c times too large
        ctx.save_for_backward(x, mean, rstd, None if recompute else cu, h1, h2, A1, B1, A2, B2)
        ctx.settings = calls, activation
        return torch.add(x, out, alpha=1 / c, out=out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, mean, rstd, cu, h1, h2, A1, B1, A2, B2 = ctx.saved_tensors
        (first, second), activation = ctx.settings
        need_x, need_A1, need_B1, need_A2, need_B2 = ctx.needs_input_grad[:5]
        norm, c = first.frozen.norm, activation.factor
        inside = need_x or need_A1 or need_B1
        y = None if A1 is None or not inside else normed(x, norm)[0]
        cu = _apply(normed(x, norm, c)[0], A1, B1, first, c)[0] if cu is None else cu
        value = None if A2 is None else activation.function(cu).div_(c)
        wide, grad_A2, grad_B2 = _backward(grad, value, h2, A2, B2, second, (inside, need_A2, need_B2))
        del value
        grad_x = grad_A1 = grad_B1 = None
        if wide is not None:
            # act(u) = f(c u) / c, so that d act / d u = f'(c u): the two factors cancel
            wide = activation.backward(wide, cu)
            del cu
            grad_x, grad_A1, grad_B1 = _backward(wide, y, h1, A1, B1, first, (need_x, need_A1, need_B1))
            del wide, y
        if grad_x is not None:
            grad_x = _norm_backward(grad_x, x, norm, mean, rstd).add_(grad)
        return grad_x, grad_A1, grad_B1, grad_A2, grad_B2, None, None, None
