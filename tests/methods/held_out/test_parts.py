"""How images are cut into parts: every one is judged as often as it should be, never by a fit that saw it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_task import make_task

from blocklora.clip import Clip
from blocklora.data import Example
from blocklora.methods import Task
from blocklora.methods.held_out.parts import cut, how_often

BLANK = Image.new("RGB", (4, 4))


def examples(part: str, counts: list[int]) -> tuple[Example, ...]:
    return tuple(Example(f"{part}/{c}/{i}", c, BLANK) for c, n in enumerate(counts) for i in range(n))


@pytest.fixture(scope="module")
def task(loaded_clip: Clip) -> Task:
    return make_task(loaded_clip)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=5),
    st.lists(st.integers(0, 4), min_size=2, max_size=5),
    st.integers(0, 99),
)
def test_every_image_is_judged_once_a_repetition(
    task: Task, counts: list[int], val_counts: list[int], seed: int
) -> None:
    task = replace(task, train=examples("train", counts), val=examples("val", val_counts))
    every = (*task.train, *task.val)
    parts = cut(task, seed)
    folds, times = how_often(counts)
    if not folds:
        assert len(parts) == (1 if task.val else 0)
    for part in parts:
        judged = [every[place] for place in part.judged]
        assert not {id(one) for one in judged} & {id(one) for one in (*part.train, *part.val)}
        assert {example.label for example in part.train} == set(range(len(counts)))
        if folds:
            assert len(part.train) + len(part.val) + len(judged) == len(every)
    alone = {place for place, one in enumerate(task.train) if counts[one.label] == 1}
    for repetition in range(times):
        seen = Counter(place for part in parts if part.repetition == repetition for place in part.judged)
        assert set(seen) == set(range(len(every))) - alone
        assert set(seen.values()) <= {1}
    assert all(part.validated == bool(task.val) for part in parts)


def test_parts_depend_on_the_seed_alone(task: Task) -> None:
    task = replace(task, train=examples("train", [8, 8]))
    assert cut(task, 1) == cut(task, 1)
    assert cut(task, 1) != cut(task, 2)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1, 1], (0, 0)),
        ([2, 2], (2, 3)),
        ([3, 3], (3, 3)),
        ([4, 5], (4, 2)),
        ([16, 16], (4, 1)),
        ([1, 9], (4, 2)),
    ],
)
def test_few_images_are_cut_more_often(counts: list[int], expected: tuple[int, int]) -> None:
    assert how_often(counts) == expected


def test_folds_may_be_given(task: Task) -> None:
    task = replace(task, train=examples("train", [4, 4]))
    assert len(cut(task, 0, folds=3)) == 3
