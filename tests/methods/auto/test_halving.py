"""Successive halving, with contenders that say what they are told to and count how often they are fitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_task import make_job, make_task

from blocklora.clip import Clip
from blocklora.methods import FitResult, Job
from blocklora.methods.auto.halving import halved
from blocklora.methods.frozen import zero_shot
from blocklora.methods.frozen.features import labels_of
from blocklora.methods.held_out.judging import Contender, with_bank
from blocklora.methods.held_out.parts import cut

LR = {"lr": 1e-3, "towers": "both", "layers": "all"}


@pytest.fixture
def job(loaded_clip: Clip) -> Job:
    return with_bank(make_job(make_task(loaded_clip, shots=8), loaded_clip, method="auto"))


def contender(key: str, fits: Counter[str]) -> Contender:
    def fit(job: Job, settings: Any) -> FitResult:
        fits[key] += 1
        return zero_shot.METHOD.fit(job, settings)

    return Contender(key, key, fit, zero_shot.METHOD.settings(), LR)


def tried(job: Job, keys: str, short: Callable[[float], bool]) -> tuple[Any, Any, Counter[str]]:
    parts, fits = cut(job.task, job.seed), Counter[str]()
    assert len(parts) == 4
    found = halved(
        job,
        [contender(key, fits) for key in keys],
        parts,
        labels_of(job.task.train),
        give_up=str,
        short=short,
    )
    return *found, fits


def test_each_part_is_fitted_once_and_the_worse_half_is_dropped(job: Job) -> None:
    records, dropped, fits = tried(job, "abc", short=lambda seconds: False)
    assert fits == {"a": 4, "b": 2, "c": 1}  # equals: the earlier one is kept
    assert set(dropped) == {"b", "c"}
    assert list(records["a"].logits) == [0, 1, 2, 3]
    assert all(torch.isfinite(rows).all() for rows in records["a"].logits.values())


def test_where_the_time_is_short_half_of_the_parts_are_enough(job: Job) -> None:
    records, dropped, fits = tried(job, "a", short=lambda seconds: True)
    assert fits == {"a": 2}
    assert not dropped
    assert "2 of 4 parts" in records["a"].given_up


def test_what_is_given_up_before_half_of_the_parts_is_dropped(job: Job) -> None:
    parts, fits = cut(job.task, job.seed), Counter[str]()
    _, dropped = halved(
        job,
        [contender("a", fits)],
        parts,
        labels_of(job.task.train),
        give_up=lambda: "over" if fits["a"] else "",
        short=lambda seconds: False,
    )
    assert dropped == {"a": "over"}
