"""Stratified cross-validation over the training images, and how a setting is chosen by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_task import make_task
from torch import Tensor

from blocklora.core.choices import Choice
from blocklora.methods import Job
from blocklora.methods.frozen.folds import choose_value, folds, out_of_fold_logits


@given(
    st.lists(st.integers(2, 9), min_size=2, max_size=4),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_every_image_is_held_out_once_and_every_class_is_in_every_fit(sizes, seed, order) -> None:  # type: ignore[no-untyped-def]
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    order.shuffle(labels)
    truth = torch.tensor(labels)
    parts = folds(truth, seed)
    assert len(parts) == min(5, *sizes)
    held_out = torch.cat([part for _, part in parts])
    assert held_out.sort().values.tolist() == list(range(len(labels)))
    for fit, out in parts:
        assert sorted([*fit.tolist(), *out.tolist()]) == list(range(len(labels)))
        assert truth[fit].unique().tolist() == list(range(len(sizes)))
        share = torch.bincount(truth[out], minlength=len(sizes)) * len(parts)
        assert ((share - torch.tensor(sizes)).abs() < len(parts)).all()
    again = folds(truth, seed)
    assert all(torch.equal(a, b) for a, b in zip(parts[0], again[0], strict=True))


def test_one_image_cannot_be_held_out() -> None:
    assert folds(torch.tensor([0, 0, 0, 1]), 0) == []
    assert len(folds(torch.tensor([0, 1] * 9), 0, most=3)) == 3


def test_logits_come_from_the_fit_that_did_not_see_the_image() -> None:
    labels = torch.tensor([0, 1, 2] * 4)
    parts = folds(labels, 3)

    def mean_of_others(fit: Tensor, held_out: Tensor) -> Tensor:
        return torch.stack([held_out.double(), fit.double().mean().expand(len(held_out))], dim=1)

    found = out_of_fold_logits(parts, mean_of_others)
    assert found[:, 0].tolist() == list(range(12))
    for fit, held_out in parts:
        assert not set(fit.tolist()) & set(held_out.tolist())
        assert found[held_out, 1].unique().tolist() == [float(fit.double().mean())]


def candidates(labels: list[int]) -> list[Tensor]:
    """Logits that are wrong, right, and right with more certainty."""
    right = torch.eye(3).double()[torch.tensor(labels)]
    return [-right, right, 2 * right]


def test_validation_images_come_first(job: Job) -> None:
    asked: list[tuple[int, ...]] = []

    def logits(features: Tensor) -> Iterable[Tensor]:
        asked.append(tuple(features.shape))
        return candidates([0, 0, 1, 1, 2, 2])

    job = replace(job, task=make_task(job.clip, n_val=2))
    found = choose_value(
        job, [5, 6, 7], beforehand=0, logits=logits, held_out=lambda: pytest.fail("not asked")
    )
    assert found == Choice(7, "validation", n_images=6, candidates=3, score=1.0, score_name="accuracy")
    assert asked == [(6, 16)]


def test_then_held_out_training_images_and_with_one_image_nothing(job: Job) -> None:
    def never(features: Tensor) -> Iterable[Tensor]:
        raise AssertionError

    def held_out() -> Iterable[Tensor]:
        return candidates([0, 0, 1, 1, 2, 2])[:2]

    found = choose_value(job, [5, 6], beforehand=0, logits=never, held_out=held_out)
    assert found == Choice(6, "fixed", "cross-validated on the training images")
    job = replace(job, task=make_task(job.clip, shots=1))
    found = choose_value(job, [5, 6], beforehand=9, logits=never, held_out=lambda: pytest.fail("not asked"))
    assert found.value == 9
    assert found.reason == "there are no validation images, and a class has one training image"
