"""The heavy pieces against slow references that draw the same masks, and against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor, nn

from blocklora.adapter import BlockLoraConfig
from blocklora.adapter.masks import dropout_mask
from blocklora.clip.lean.low_rank import LowRank, base_linear, low_rank, masks
from blocklora.clip.lean.ops import Frozen, linear, mlp
from blocklora.clip.towers import LeanTowers

ROWS, D_IN, D_OUT, SEED = 7, 6, 10, 41
ACTS = {"quick_gelu": lambda u: u * torch.sigmoid(1.702 * u), "gelu": F.gelu}


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(d_in: int, d_out: int, seed: int, norm: bool) -> Frozen:
    found = nn.LayerNorm(d_in, dtype=torch.float64).requires_grad_(False)
    found.weight.copy_(1 + 0.3 * numbers(d_in, seed=seed))
    found.bias.copy_(0.3 * numbers(d_in, seed=seed + 1))
    weight, bias = numbers(d_out, d_in, seed=seed + 2) / d_in**0.5, numbers(d_out, seed=seed + 3)
    return Frozen((weight,), (bias,), found if norm else None)


def factors(d_in: int, d_out: int, seed: int) -> tuple[Tensor, Tensor]:
    return numbers(5, d_in, seed=seed).requires_grad_(), numbers(d_out, 5, seed=seed + 1).requires_grad_()


def terms(A: Tensor, B: Tensor, dropout: float) -> LowRank:
    """Three terms of ranks 2, 1 and 2; the second drops nothing."""
    return LowRank(A, B, (2, 1, 2), (dropout, 0.0, dropout))


def slow_linear(x: Tensor, frozen: Frozen, low: LowRank | None, seed: int) -> Tensor:
    """By its formula: one term after another, masks from one generator of the seed, in their order."""
    y = x if frozen.norm is None else frozen.norm(x)
    out = y @ frozen.weight(y.dtype).T + frozen.bias(y.dtype)
    if low is None:
        return out
    generator, first = torch.Generator().manual_seed(seed), 0
    for rank, dropout in zip(low.ranks, low.dropouts, strict=True):
        mask = dropout_mask(y, dropout, generator) if dropout else 1
        A, B = low.A[first : first + rank], low.B[:, first : first + rank]
        out, first = out + (mask * y) @ A.T @ B.T, first + rank
    return out


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("adapted", [True, False])
def test_linear(norm: bool, dropout: float, adapted: bool) -> None:
    x, frozen = numbers(ROWS, D_IN, seed=1).requires_grad_(), layer(D_IN, D_OUT, 2, norm)
    A, B = factors(D_IN, D_OUT, 9)

    def run(x: Tensor, A: Tensor, B: Tensor, function: Any = linear) -> Tensor:
        return function(x, frozen, terms(A, B, dropout) if adapted else None, SEED)

    inputs = (x, A, B) if adapted else (x,)
    out, wanted = run(x, A, B), run(x, A, B, slow_linear)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-13)
    weights = numbers(ROWS, D_OUT, seed=20)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, weights),
        torch.autograd.grad(wanted, inputs, weights),
        rtol=1e-12,
        atol=1e-13,
    )
    assert torch.autograd.gradcheck(lambda *some: run(*some, *(A, B)[len(some) - 1 :]), inputs)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("adapted", [(), (1,), (2,), (1, 2)], ids=str)
def test_mlp(recompute: bool, dropout: float, act: str, adapted: tuple[int, ...]) -> None:
    x = numbers(ROWS, D_IN, seed=1).requires_grad_()
    fc1, fc2 = layer(D_IN, D_OUT, 2, norm=True), layer(D_OUT, D_IN, 30, norm=False)
    A1, B1, A2, B2 = *factors(D_IN, D_OUT, 9), *factors(D_OUT, D_IN, 15)
    inputs = (x, *((A1, B1) if 1 in adapted else ()), *((A2, B2) if 2 in adapted else ()))

    def run(*some: Tensor) -> Tensor:
        x, *rest = some
        low1 = terms(rest.pop(0), rest.pop(0), dropout) if 1 in adapted else None
        low2 = terms(rest.pop(0), rest.pop(0), dropout) if 2 in adapted else None
        return mlp(x, fc1, fc2, low1, low2, SEED, activation=act, recompute=recompute)

    low1 = terms(A1, B1, dropout) if 1 in adapted else None
    low2 = terms(A2, B2, dropout) if 2 in adapted else None
    inside = ACTS[act](slow_linear(x, fc1, low1, SEED))
    wanted = x + slow_linear(inside, fc2, low2, SEED + 1)
    out, weights = run(*inputs), numbers(ROWS, D_IN, seed=20)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, weights),
        torch.autograd.grad(wanted, inputs, weights),
        rtol=1e-11,
        atol=1e-12,
    )
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("trained", [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_gradients_of_only_some(trained: tuple[int, ...]) -> None:
    """Whatever asks for a gradient gets the one it gets when all do, and nothing else is computed."""
    x, frozen = numbers(ROWS, D_IN, seed=1), layer(D_IN, D_OUT, 2, norm=True)
    fc2 = layer(D_OUT, D_IN, 30, norm=False)
    for wide in (False, True):
        every = [x.clone(), *(part.detach() for part in factors(D_IN, D_OUT, 9))]
        every += [part.detach() for part in factors(D_OUT, D_IN, 15)] if wide else []

        def run(x: Tensor, A: Tensor, B: Tensor, *rest: Tensor, fc2: Frozen = fc2, **_: Any) -> Tensor:
            if not rest:
                return linear(x, frozen, terms(A, B, 0.4), SEED)
            low1, low2 = terms(A, B, 0.4), terms(*rest, 0.4)
            return mlp(x, frozen, fc2, low1, low2, SEED, activation="gelu", recompute=False)

        full = [part.clone().requires_grad_() for part in every]
        run(*full).sum().backward()
        for shift in (0, 2) if wide else (0,):
            some = [part.clone() for part in every]
            chosen = [place + (shift if place else 0) for place in trained]
            for place in chosen:
                some[place].requires_grad_()
            out = run(*some)
            assert out.requires_grad == bool(chosen)
            if chosen:
                out.sum().backward()
            for place, (part, reference) in enumerate(zip(some, full, strict=True)):
                assert (part.grad is None) == (place not in chosen)
                if part.grad is not None:
                    torch.testing.assert_close(part.grad, reference.grad, rtol=1e-12, atol=1e-13)


def test_nothing_of_the_wide_inside_is_kept() -> None:
    x = numbers(ROWS, D_IN, seed=1).requires_grad_()
    fc1, fc2 = layer(D_IN, D_OUT, 2, norm=True), layer(D_OUT, D_IN, 30, norm=False)
    for recompute, count in ((True, 0), (False, 1)):
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda part, to=kept: to.append(part), lambda part: part
        ):
            mlp(x, fc1, fc2, None, None, SEED, activation="quick_gelu", recompute=recompute)
        assert sum(part.shape == (ROWS, D_OUT) for part in kept) == count


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_the_law_of_the_masks(p: float) -> None:
    x = torch.ones(1000, 64)
    mask, other, none = masks(x, (p, p, 0.0), SEED)
    assert mask is not None
    assert other is not None
    assert none is None
    kept = mask > 0
    assert mask[kept].unique() == pytest.approx(1 / (1 - p), rel=1e-4)  # so that the mean is 1
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float((~kept).float().mean()) - p) < 5 * deviation
    together = float((kept & (other > 0)).float().mean())  # masks of different terms are independent
    assert abs(together - (1 - p) ** 2) < 5 * deviation
    assert abs(float((kept[1:] & kept[:-1]).float().mean()) - (1 - p) ** 2) < 5 * deviation
    for again, first in zip(masks(x, (p, p), SEED), (mask, other), strict=True):
        assert again is not None
        assert torch.equal(again, first)
    (elsewhere,) = masks(x, (p,), SEED + 1)
    assert elsewhere is not None
    assert not torch.equal(elsewhere, mask)


CONFIGS = {
    "blocks": BlockLoraConfig(r=4, n_blocks=2, lora_dropout=0.4, init_weights=False),
    "arm": BlockLoraConfig(r=4, n_blocks=2, lora_dropout=0.4, init_weights=False, arm_dropout=True),
    "lora": LoraConfig(r=2, lora_dropout=0.4, init_lora_weights=False),
}


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_q_k_and_v_as_one_layer_by_the_seeds_rule(random_clip: Any, kind: str) -> None:
    """Terms in the order q, k, v; in each, adapters by name, and arms; every one with the next masks."""
    case = random_clip(
        CONFIGS[kind].__class__(**CONFIGS[kind].to_dict() | {"target_modules": ["q_proj", "v_proj"]})
    )
    layers = [
        case.model.get_submodule(f"text_model.encoder.layers.0.self_attn.{leaf}_proj") for leaf in "qkv"
    ]
    x = numbers(ROWS, 32, seed=1)
    bases = [base_linear(part) for part in layers]
    frozen = Frozen(tuple(base.weight for base in bases), tuple(base.bias for base in bases))
    found = linear(x, frozen, low_rank(layers, torch.float64, training=True), SEED)
    generator, parts = torch.Generator().manual_seed(SEED), []
    for part in layers:
        out = base_linear(part)(x)
        if part is not layers[1]:
            if kind == "lora":
                pairs = [(part.lora_A["default"].weight, part.lora_B["default"].weight)]
            elif kind == "arm":
                pairs = [(part.blocklora_A["default"], arm) for arm in part.blocklora_B["default"]]
            else:
                pairs = [(part.blocklora_A["default"], part.blocklora_B["default"].sum(0))]
            for A, B in pairs:
                masked = dropout_mask(x, 0.4, generator) * x
                out = out + part.scaling["default"] * masked @ A.T @ B.T
        parts.append(out)
    torch.testing.assert_close(found, torch.cat(parts, 1), rtol=1e-12, atol=1e-13)
    outside = low_rank(layers, torch.float64, training=False)
    assert set(outside.dropouts) == {0.0}


def test_masks_differ_between_layers_blocks_and_terms(
    random_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = random_clip(
        BlockLoraConfig(
            r=2, n_blocks=1, lora_dropout=0.3, target_modules=["q_proj", "out_proj", "fc1", "fc2"]
        )
    )
    case.model.train()
    seeds: list[int] = []
    real = torch.Generator.manual_seed

    class Spy(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            seeds.append(seed)
            return real(self, seed)

    monkeypatch.setattr(torch, "Generator", Spy)
    with torch.no_grad():
        LeanTowers(case.model).images(case.pixels, seed=100)
    assert seeds == list(range(100, 112))  # three blocks of qkv, out, fc1 and fc2
