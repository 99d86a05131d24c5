"""The maths against the plain formula, finite differences and counted bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blocklora.adapter import functional
from blocklora.adapter.functional import (
    block_lora,
    block_lora_reference,
    fold,
    init_factors,
)
from blocklora.adapter.masks import PartRows, draw_seed, dropout_mask, dropout_masks


def factors(n: int, k: int, d_in: int = 7, d_out: int = 5, shape: tuple[int, ...] = (2, 3)) -> list[Tensor]:
    g = torch.Generator().manual_seed(n * 100 + k)
    sizes = ((*shape, d_in), (k, d_in), (n, d_out, k))
    return [torch.randn(size, generator=g, dtype=torch.float64).requires_grad_() for size in sizes]


def masks_of(seed: int, x: Tensor, p: float, count: int) -> list[Tensor]:
    """The masks that a call draws when torch's stream stands at ``seed``."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(draw_seed())
    return [dropout_mask(x, p, generator) for _ in range(count)]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 4),
    k=st.integers(1, 3),
    p=st.sampled_from([0.0, 0.25, 0.6]),
    arms=st.booleans(),
    scale=st.sampled_from([1.0, -0.3, 2.5]),
    shape=st.sampled_from([(), (0,), (3,), (2, 3), (2, 1, 4)]),
)
def test_equals_the_formula_forward_and_backward(n, k, p, arms, scale, shape) -> None:
    ours, plain = factors(n, k, shape=shape), factors(n, k, shape=shape)
    masks = masks_of(3, plain[0], p, n if arms else 1) if p else None
    torch.manual_seed(3)
    got = block_lora(*ours, scale, dropout=p, arm_dropout=arms)
    want = block_lora_reference(*plain, scale, masks)
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(want)
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("p", "arms"), [(0.0, False), (0.3, False), (0.3, True)])
def test_finite_differences(p: float, arms: bool) -> None:
    def call(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        torch.manual_seed(8)  # the same masks at every probe
        return block_lora(x, A, B, 0.7, dropout=p, arm_dropout=arms)

    assert torch.autograd.gradcheck(call, tuple(factors(3, 2)))


@pytest.mark.parametrize("trained", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_of_a_part(trained: tuple[bool, ...]) -> None:
    whole, part = factors(2, 2), factors(2, 2)
    for tensor, wanted in zip(part, trained, strict=True):
        tensor.requires_grad_(wanted)
    for tensors in (whole, part):
        torch.manual_seed(1)
        block_lora(*tensors, 1.3, dropout=0.4).square().sum().backward()
    for a, b, wanted in zip(whole, part, trained, strict=True):
        assert torch.equal(a.grad, b.grad) if wanted else b.grad is None


def test_gradient_of_gradient_is_refused() -> None:
    tensors = factors(2, 1)
    out = block_lora(*tensors, 1.0)
    (grad,) = torch.autograd.grad(out.square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def saved_bytes(run: Any, known: list[Tensor]) -> int:
    """Bytes of all distinct storages that autograd keeps, parameters and other known tensors left out."""
    kept: dict[int, int] = {}
    owned = {tensor.untyped_storage().data_ptr() for tensor in known}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        alive = run()
    assert alive is not None
    return sum(kept.values())


def test_saved_bytes_are_the_input_once_and_the_small_products() -> None:
    tokens, d, k = 32, 64, 2
    source = torch.randn(tokens, d, requires_grad=True)
    layers = [
        [torch.randn(k, d, requires_grad=True), torch.randn(3, d, k, requires_grad=True)] for _ in range(3)
    ]
    parameters = [p for layer in layers for p in layer] + [source]

    def run() -> Any:
        x = source * 1  # q, k and v read this one tensor
        return [block_lora(x, A, B, 0.5, dropout=0.25) for A, B in layers]

    assert saved_bytes(run, parameters) == 4 * (tokens * d + 3 * tokens * k)
    for A, B in layers:  # frozen factors: only what the input's gradient needs, which is nothing new
        A.requires_grad_(False)
        B.requires_grad_(False)
    assert saved_bytes(run, parameters) == 0


def test_nothing_is_saved_without_gradients() -> None:
    tensors = [t.detach() for t in factors(2, 2)]
    assert block_lora(*tensors, 1.0).grad_fn is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("p", [0.0, 0.25, 0.3])
def test_a_step_on_every_device(device: str, p: float) -> None:
    x, A, B = (part.detach().float().to(device).requires_grad_() for part in factors(3, 2))
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        out = block_lora(x, A, B, 0.5, dropout=p, arm_dropout=True)
        found.append([out, *torch.autograd.grad(out.square().sum(), (x, A, B))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all(part.device == x.device and part.isfinite().all() for part in found[0])


@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_right_on_average_and_reproducible(device: str) -> None:
    x = torch.ones(200_003, device=device)
    mask, again = (dropout_mask(x, 0.3, torch.Generator(device).manual_seed(4)) for _ in range(2))
    assert mask.device == x.device
    assert torch.equal(mask, again)
    mask = mask.cpu()
    assert abs((mask == 0).double().mean().item() - 0.3) < 0.005
    assert abs(mask.double().mean().item() - 1) < 0.01
    assert len(mask.unique()) == 2
    for lag in (1, 2, 3, 4):  # neighbours, which come from one random word, are independent
        both = ((mask[:-lag] == 0) & (mask[lag:] == 0)).double().mean().item()
        assert abs(both - 0.09) < 0.005


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_masks_stay_finite_at_the_ends(p: float) -> None:
    assert dropout_mask(torch.ones(1000), p, torch.Generator().manual_seed(0)).isfinite().all()


def test_arms_get_masks_of_their_own_only_when_asked() -> None:
    x, A, B = (t.detach() for t in factors(2, 1, shape=(64,)))
    B = torch.stack([B[0], -B[0]])  # the same mask makes these two arms cancel
    shared = block_lora(x, A, B, 1.0, dropout=0.5)
    own = block_lora(x, A, B, 1.0, dropout=0.5, arm_dropout=True)
    assert shared.abs().max() == 0
    assert own.abs().max() > 0.1
    assert block_lora(x, A, B, 1.0, arm_dropout=True).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_gaussian_arms_differ_and_sum_to_exactly_zero(n: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n)
    A, B = torch.empty(2, 30, dtype=dtype), torch.empty(n, 40, 2, dtype=dtype)
    init_factors(A, B, "gaussian")
    assert A.abs().max() > 0
    for order in (B, B.flip(0), B.roll(1, 0)):
        assert fold(order).abs().max() == 0
    if n > 1:
        assert 0.004 < B.float().std().item() < 0.02
        assert not torch.equal(B[0], B[1])


def test_the_usual_start_and_the_random_start() -> None:
    A, B = torch.empty(4, 30), torch.empty(2, 20, 4)
    init_factors(A, B, True)
    assert not B.any()
    assert A.abs().max() <= 1 / 30**0.5  # Kaiming-uniform with a = sqrt 5
    init_factors(A, B, False)
    assert fold(B).abs().max() > 0.01


@pytest.mark.parametrize("outer", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_type_and_keeps_gradients_in_theirs(outer: torch.dtype) -> None:
    x, A, B = (t.detach().float().requires_grad_() for t in factors(2, 2, shape=(6,)))
    exact = block_lora(x, A, B, 0.5)
    with torch.autocast("cpu", dtype=outer):
        out = block_lora(x, A, B, 0.5)
        assert out.dtype == outer
        out.sum().backward()  # inside autocast: the types are explicit, so this changes nothing
    assert [t.grad.dtype for t in (x, A, B)] == [torch.float32] * 3
    assert torch.allclose(out.float(), exact, atol=0.1, rtol=0.05)


def test_autocast_leaves_double_alone() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block_lora(*factors(2, 2), 1.0).dtype == torch.float64


def test_half_precision_input_is_kept_as_it_came() -> None:
    x = torch.randn(16, 7, dtype=torch.bfloat16, requires_grad=True)
    A, B = torch.randn(2, 7, requires_grad=True), torch.randn(3, 5, 2, requires_grad=True)
    kept = saved_bytes(lambda: block_lora(x, A, B, 1.0), [A, B])
    assert kept == 16 * 7 * 2 + 16 * 2 * 4
    block_lora(x, A, B, 1.0).sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_while_compiling_the_plain_formula_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, A, B = (t.detach() for t in factors(3, 2, shape=(400,)))
    want = block_lora(x, A, B, 0.5)
    monkeypatch.setattr(functional.torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(block_lora(x, A, B, 0.5), want)
    for arms in (False, True):
        mean = torch.stack(
            [block_lora(x, A, B, 0.5, dropout=0.2, arm_dropout=arms) for _ in range(400)]
        ).mean(0)
        assert (mean - want).abs().mean() < 0.1 * want.abs().mean()


def test_nothing_is_dropped_at_zero() -> None:
    like = torch.ones(50, 7)
    masks = dropout_masks(like, 0.0, torch.Generator().manual_seed(3))
    assert all(torch.equal(next(masks), like) for _ in range(5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 0.3])
def test_masks_in_a_row_have_their_law_and_are_independent(p: float, device: str) -> None:
    like = torch.ones(501, 63, device=device)  # not a multiple of what a draw gives
    masks = dropout_masks(like, p, torch.Generator(device).manual_seed(3))
    found = torch.stack([next(masks) for _ in range(6)])  # more than one draw serves
    again = dropout_masks(like, p, torch.Generator(device).manual_seed(3))
    assert all(torch.equal(mask, next(again)) for mask in found)
    assert_law(found.cpu(), p)


def assert_law(found: Tensor, p: float) -> None:
    """Each of the masks (M, ...) drops a share p, and different masks and neighbours are independent."""
    like = found[0]
    kept = found > 0
    assert found[kept].unique() == pytest.approx(1 / (1 - p), rel=1e-4)
    deviation = (p * (1 - p) / like.numel()) ** 0.5
    assert (kept.float().mean((1, 2)) - (1 - p)).abs().max() < 5 * deviation
    for first in range(6):
        for second in range(first):
            both = (kept[first] & kept[second]).float().mean()
            assert abs(both - (1 - p) ** 2) < 5 * deviation
    beside = (kept[..., 1:] & kept[..., :-1]).float().mean()
    assert abs(beside - (1 - p) ** 2) < 5 * deviation


class Elsewhere(TorchFunctionMode):
    """Runs on the CPU what asks for another device, and records the range of every integer that is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[torch.dtype, int, int | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        if func is Tensor.random_:
            self.drawn.append((args[0].dtype, *args[1:]))
        elif "generator" in kwargs:
            raise AssertionError(f"{func} draws numbers in a way that this test does not know")
        return func(*args, **kwargs)


class Like(NamedTuple):
    """What mask generation reads of a tensor, on a device that this machine need not have."""

    device: torch.device
    shape: torch.Size
    dtype: torch.dtype

    def numel(self) -> int:
        return self.shape.numel()


def accepted(device: str, dtype: torch.dtype, low: int, high: int | None) -> bool:
    """Whether a device draws integers of a range as they are asked for.

    CPU and CUDA draw any range of the type. MPS draws 32-bit integers, whatever the type, and refuses to draw from
    -2**63 without an upper end (``random_mps_`` in PyTorch's aten/src/ATen/native/mps/operations/Distributions.mm).
    So, to be safe, does any device that we know nothing of.
    """
    info = torch.iinfo(dtype)
    if device in ("cpu", "cuda"):
        return info.min <= low and (high is None or low < high <= info.max + 1)
    return high is not None and max(info.min, -(2**31)) <= low < high <= min(info.max + 1, 2**31 - 1)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 0.3])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
def test_random_integers_are_of_ranges_that_the_device_draws(device: str, p: float) -> None:
    like = Like(torch.device(device), torch.Size((501, 63)), torch.float32)
    found = []
    for _ in range(2):
        masks = dropout_masks(like, p, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        with Elsewhere() as calls:
            found.append(torch.stack([next(masks) for _ in range(6)]))
        assert calls.drawn
        assert all(accepted(device, *call) for call in calls.drawn), calls.drawn
    assert torch.equal(*found)
    assert_law(found[0], p)


def test_the_bits_of_masks_stay() -> None:
    """A resumed run, and one that is run again with a newer version, meets the same masks."""
    like = torch.ones(4, 16)
    for p, bits in (
        (0.25, "0111111111111011011101011111011111111100110011111111111011111111"),
        (0.3, "1110111011011000111101110111011111111011111111111110011111101100"),
    ):
        mask = next(dropout_masks(like, p, torch.Generator().manual_seed(3)))
        assert "".join(map(str, (mask > 0).int().flatten().tolist())) == bits


@pytest.mark.parametrize("p", [0.25, 0.5, 0.3])
def test_some_rows_get_the_masks_that_they_have_in_the_larger_matrix(p: float) -> None:
    whole, part = torch.ones(11, 3), torch.ones(5, 3)
    rows = PartRows(11, ((0, 2), (6, 9)))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    pairs = zip(
        dropout_masks(whole, p, generators[0]), dropout_masks(part, p, generators[1], rows), strict=True
    )
    for (one, other), _ in zip(pairs, range(6), strict=False):
        assert torch.equal(one[[0, 1, 6, 7, 8]], other)
