"""Stratified cross-validation over the training images, and how a setting is chosen by it."""

from __future__ import annotations

from dataclasses import replace

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
    st.randoms(use_true_random=False),
)
def test_every_image_is_held_out_once_and_every_class_is_in_every_fit(sizes, order) -> None:  # type: ignore[no-untyped-def]
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    order.shuffle(labels)
    truth = torch.tensor(labels)
    parts = folds(truth)
    assert len(parts) == min(5, *sizes)
    held_out = torch.cat([part for _, part in parts])
    assert held_out.sort().values.tolist() == list(range(len(labels)))
    for fit, out in parts:
        assert sorted([*fit.tolist(), *out.tolist()]) == list(range(len(labels)))
        assert truth[fit].unique().tolist() == list(range(len(sizes)))
        share = torch.bincount(truth[out], minlength=len(sizes)) * len(parts)
        assert ((share - torch.tensor(sizes)).abs() < len(parts)).all()
    again = folds(truth)
    assert all(torch.equal(a, b) for a, b in zip(parts[0], again[0], strict=True))


def test_one_image_cannot_be_held_out() -> None:
    assert folds(torch.tensor([0, 0, 0, 1])) == []
    assert len(folds(torch.tensor([0, 1] * 9), most=3)) == 3


def test_logits_come_from_the_fit_that_did_not_see_the_image() -> None:
    labels = torch.tensor([0, 1, 2] * 4)
    parts = folds(labels)

    def mean_of_others(fit: Tensor, held_out: Tensor) -> Tensor:
        return torch.stack([held_out.double(), fit.double().mean().expand(len(held_out))], dim=1)

    found = out_of_fold_logits(parts, mean_of_others)
    assert found[:, 0].tolist() == list(range(12))
    for fit, held_out in parts:
        assert not set(fit.tolist()) & set(held_out.tolist())
        assert found[held_out, 1].unique().tolist() == [float(fit.double().mean())]


RIGHT = torch.eye(3).double()[torch.tensor([0, 0, 1, 1, 2, 2])]


def never(*asked: object) -> Tensor:
    raise AssertionError(asked)


def test_validation_images_come_first(job: Job) -> None:
    job = replace(job, task=make_task(job.clip, n_val=2))
    asked = []

    def logits(features: Tensor, value: float) -> Tensor:
        asked.append((tuple(features.shape), value))
        return value * RIGHT

    found = choose_value(job, [-1.0, 1.0, 2.0], beforehand=0.0, logits=logits, held_out=never)
    choice = Choice(2.0, "validation", n_images=6, candidates=3, score=1.0, score_name="accuracy")
    assert found == (2.0, choice, None)
    assert asked == [((6, 16), -1.0), ((6, 16), 1.0), ((6, 16), 2.0)]


def test_then_training_images_that_were_held_out(job: Job) -> None:
    value, choice, held_out = choose_value(
        job, [-1.0, 1.0], beforehand=0.0, logits=never, held_out=lambda value: value * RIGHT
    )
    assert (value, choice.value) == (1.0, 1.0)
    assert (choice.reason, choice.n_images) == ("cross-validated on the training images", 6)
    assert held_out is not None
    assert held_out.logits.tolist() == RIGHT.tolist()
    assert held_out.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_with_one_image_of_a_class_the_value_is_fixed(job: Job) -> None:
    job = replace(job, task=make_task(job.clip, shots=1))
    found = choose_value(job, [5.0, 6.0], beforehand=9.0, logits=never, held_out=never)
    assert found == (
        9.0,
        Choice(9.0, "fixed", "no validation images, and a class of one image to choose it by"),
        None,
    )
