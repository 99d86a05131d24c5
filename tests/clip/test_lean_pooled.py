"""The last block's attention without keys and values, against the one that computes them for every row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocklora.clip.lean.attention import Images, Layout, Prompts
from blocklora.clip.lean.low_rank import LowRank
from blocklora.clip.lean.ops import Frozen, linear
from blocklora.clip.lean.pooled import pooled_attention
from blocklora.clip.text_plan import text_plan

D, HEADS = 24, 3
SEED = 5


def images() -> tuple[Layout, Tensor, int]:
    """Two images of seven tokens: a layout, its wanted rows, and how many rows there are."""
    return Images(7, HEADS), torch.tensor([0, 7]), 14


def prompts(*, share: bool) -> tuple[Layout, Tensor, int]:
    """Four prompts of three lengths, with an opening of two tokens."""
    tokens = torch.tensor([[1, 2, 3, 9, 9], [1, 2, 4, 5, 9], [1, 2, 9, 9, 9], [1, 2, 5, 9, 9]])
    plan = text_plan(tokens, 9, share=share)
    return Prompts(plan, HEADS), plan.ends, len(plan.ids)


LAYOUTS = {
    "images": images(),
    "prompts": prompts(share=True),
    "prompts, nothing shared": prompts(share=False),
}


def frozen() -> Frozen:
    """q, k and v with random weights, and the LayerNorm before them."""
    draw = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(D, dtype=torch.float64).requires_grad_(False)
    norm.weight.copy_(torch.rand(D, generator=draw, dtype=torch.float64))
    return Frozen(
        torch.randn(3 * D, D, generator=draw, dtype=torch.float64).split(D),
        torch.randn(3 * D, generator=draw, dtype=torch.float64).split(D),
        norm,
    )


def low_rank(ranks: tuple[int, ...], dropout: float) -> LowRank:
    """A low-rank part whose terms reach all of q, k and v."""
    draw = torch.Generator().manual_seed(1)
    A = torch.randn(sum(ranks), D, generator=draw, dtype=torch.float64).requires_grad_()
    B = torch.randn(3 * D, sum(ranks), generator=draw, dtype=torch.float64).requires_grad_()
    return LowRank(A, B, ranks, (dropout,) * len(ranks))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.4])
@pytest.mark.parametrize("ranks", [(), (2,), (1, 3, 2)], ids=str)
def test_it_is_the_attention_of_all_rows_at_the_wanted_ones(
    layout: str, dropout: float, ranks: tuple[int, ...]
) -> None:
    among, rows, total = LAYOUTS[layout]
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(total, D, generator=draw, dtype=torch.float64).requires_grad_()
    weights = torch.randn(len(rows), D, generator=draw, dtype=torch.float64)
    low, qkv = low_rank(ranks, dropout) if ranks else None, frozen()
    tensors = [x] if low is None else [x, low.A, low.B]

    wanted = among.attention(linear(x, qkv, low, SEED))[rows]
    reference = torch.autograd.grad((wanted * weights).sum(), tensors)
    found = pooled_attention(x, qkv, low, SEED, rows, among)
    gradients = torch.autograd.grad((found * weights).sum(), tensors)

    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-11, atol=1e-11)


def test_it_keeps_its_input_and_the_factors_alone() -> None:
    among, rows, total = LAYOUTS["prompts"]
    x, low, kept = torch.randn(total, D, dtype=torch.float64).requires_grad_(), low_rank((2,), 0.25), []

    def keep(tensor: Tensor) -> Any:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pooled_attention(x, frozen(), low, SEED, rows, among)
    assert set(kept) == {part.untyped_storage().data_ptr() for part in (x, low.A, low.B)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_is_no_worse_than_with_keys_and_values(dtype: torch.dtype) -> None:
    among, rows, total = LAYOUTS["images"]
    x, low, qkv = (
        torch.randn(total, D, generator=torch.Generator().manual_seed(3)),
        low_rank((2,), 0.0),
        frozen(),
    )
    with torch.no_grad():
        exact = pooled_attention(x.double(), qkv, low, SEED, rows, among)
        half = low._replace(A=low.A.to(dtype), B=low.B.to(dtype))
        found = pooled_attention(x.to(dtype), qkv, half, SEED, rows, among)
        usual = among.attention(linear(x.to(dtype), qkv, half, SEED))[rows]
    assert found.dtype == dtype
    assert not found.requires_grad
    error, usual_error = ((one.double() - exact).norm() / exact.norm() for one in (found, usual))
    assert error <= 2 * usual_error
