"""The cross-entropy in parts against torch's own, in value and gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rank_work
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from blocklora.training.softmax import CLASSES_AT_ONCE, cross_entropy_sum


def task(
    n_images: int, n_classes: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images, classes = (
        F.normalize(torch.randn(rows, 6, generator=draw, dtype=dtype), dim=1).requires_grad_()
        for rows in (n_images, n_classes)
    )
    return images, classes, torch.randint(0, n_classes, (n_images,), generator=draw)


def loss_and_gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(3 * loss, inputs)]


@settings(deadline=None, max_examples=60)
@given(
    n_images=st.integers(1, 9),
    n_classes=st.integers(2, 40),
    at_once=st.integers(1, 45),
    scale=st.floats(0.01, 200),
    seed=st.integers(0, 1000),
)
def test_in_parts_it_is_torchs_cross_entropy(
    n_images: int, n_classes: int, at_once: int, scale: float, seed: int
) -> None:
    images, classes, labels = task(n_images, n_classes, seed)
    factor = torch.tensor(scale, dtype=torch.float64)
    found = loss_and_gradients(
        cross_entropy_sum(images, classes, factor, labels, at_once=at_once), images, classes
    )
    plain = F.cross_entropy(factor * images @ classes.T, labels, reduction="sum")
    for one, other in zip(found, loss_and_gradients(plain, images, classes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_autograd_agrees_by_differences() -> None:
    images, classes, labels = task(4, 11, 1)
    scale = torch.tensor(5.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda images, classes: cross_entropy_sum(images, classes, scale, labels, at_once=3),
        (images, classes),
    )


def test_float32_is_as_near_to_float64_as_torchs_own() -> None:
    images, classes, labels = task(8, 3000, 2, torch.float32)
    images = (
        classes[labels].detach().requires_grad_()
    )  # cosine 1: logits of 100, where little is left of 1 - p
    scale = torch.tensor(100.0)
    in_parts = cross_entropy_sum(images, classes, scale, labels, at_once=256)
    plain = F.cross_entropy(scale * images @ classes.T, labels, reduction="sum")
    wide = [value.detach().double().requires_grad_() for value in (images, classes)]
    truth = F.cross_entropy(100 * wide[0] @ wide[1].T, labels, reduction="sum")
    rows = [
        loss_and_gradients(loss, *inputs)
        for loss, inputs in ((in_parts, (images, classes)), (plain, (images, classes)), (truth, wide))
    ]
    for own, theirs, exact in zip(*rows, strict=True):
        size = exact.abs().max()
        assert (own - exact).abs().max() <= 2 * (theirs - exact).abs().max() + 1e-6 * size


def test_only_one_side_wants_a_gradient() -> None:
    images, classes, labels = task(3, 20, 3)
    scale = torch.tensor(7.0, dtype=torch.float64)
    both = loss_and_gradients(cross_entropy_sum(images, classes, scale, labels, at_once=6), images, classes)
    one = cross_entropy_sum(images, classes.detach(), scale, labels, at_once=6)
    other = cross_entropy_sum(images.detach(), classes, scale, labels, at_once=6)
    torch.testing.assert_close(torch.autograd.grad(3 * one, images)[0], both[1])
    torch.testing.assert_close(torch.autograd.grad(3 * other, classes)[0], both[2])


@pytest.mark.parametrize("n_classes", [CLASSES_AT_ONCE, CLASSES_AT_ONCE + 1])
def test_no_matrix_of_images_by_classes_is_kept_where_classes_are_many(n_classes: int) -> None:
    images, classes, labels = task(4, n_classes, 4, torch.float32)
    kept: list[int] = []

    def keep(value: Tensor) -> Any:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        cross_entropy_sum(images, classes, torch.tensor(9.0), labels)
    assert (4 * n_classes in kept) == (n_classes <= CLASSES_AT_ONCE)


def test_ranks_that_share_classes_have_the_loss_and_gradients_of_one_process(tmp_path: Path) -> None:
    """Three ranks, one without images and another without classes."""
    assert rank_work.processes("softmaxes", 3, str(tmp_path)) == [0] * 3
    for name, most in (("float64", 1e-10), ("float32", 1e-6)):
        expected = rank_work.softmax_of(getattr(torch, name))
        found = [load_file(tmp_path / f"{name}.{rank}.safetensors") for rank in range(3)]
        classes = torch.empty_like(expected["classes"])
        for one in found:
            classes[one["mine"]] = one["classes"]
        both = {
            "loss": sum(one["loss"] for one in found),
            "images": torch.cat([one["images"] for one in found]),
        }
        for key, value in (both | {"classes": classes}).items():
            assert (value - expected[key]).norm() <= most * expected[key].norm(), (name, key)
