"""Shares are all of what there is, in order, and passes that are cut are those of one process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_clip import RandomClip

from blocklora.clip.text_plan import text_plans
from blocklora.core.ranks import ALONE, Ranks
from blocklora.training.distributed import by_weight, own_passes, own_pieces, pieces


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_all_and_alike(n: int, count: int) -> None:
    shares = [Ranks(rank, count).share(n) for rank in range(count)]
    assert [place for first, last in shares for place in range(first, last)] == list(range(n))
    assert max(last - first for first, last in shares) - min(last - first for first, last in shares) <= 1
    assert ALONE.share(n) == (0, n)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(1, 9))
def test_shares_by_weight_are_all_and_off_by_no_more_than_a_member(weights: list[int], count: int) -> None:
    shares = by_weight(weights, count)
    assert len(shares) == count
    assert (shares[0][0], shares[-1][1]) == (0, len(weights))
    assert all(one[1] == other[0] for one, other in pairwise(shares))
    for first, last in shares:
        assert abs(sum(weights[first:last]) - sum(weights) / count) <= max(weights)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_pieces_are_the_members_of_a_share(sizes: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, sum(sizes)))
    last = data.draw(st.integers(first, sum(sizes)))
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    found = list(pieces(sizes, first, last))
    members = [starts[one.place] + place for one in found for place in range(one.first, one.last)]
    assert members == list(range(first, last))
    assert all(one.of == sizes[one.place] for one in found)
    assert all(one.whole == (one.last - one.first == one.of) for one in found)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 9))
def test_ranks_are_told_of_one_another_s_pieces(images: int, size: int, count: int) -> None:
    each = [list(own_pieces(images, size, Ranks(rank, count))) for rank in range(count)]
    for several in zip(*each, strict=True):
        sizes = several[0][1]
        assert all(told == sizes for _, told in several)
        assert [piece.last - piece.first if piece else 0 for piece, _ in several] == list(sizes)
    members = [
        piece.place * size + place
        for pieces_ in each
        for piece, _ in pieces_
        if piece
        for place in range(piece.first, piece.last)
    ]
    assert members == list(range(images))


@pytest.mark.parametrize("chunk", [1, 4, 6])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_passes_of_all_ranks_are_those_of_one_process(count: int, share: bool, chunk: int) -> None:
    tokens = RandomClip.prompts([3, 5, 3, 1, 9, 3], torch.Generator().manual_seed(0))
    passes = text_plans(tokens, 99, chunk=chunk, share=share)
    ranks = [own_passes(passes, Ranks(rank, count)) for rank in range(count)]
    assert sorted(int(rows) for own in ranks for _, several, _ in own for rows in several) == list(range(6))
    for own in ranks if count > 1 else []:
        for place, classes, plan in own:
            check_part(tokens, passes[place], classes.tolist(), plan)


def check_part(tokens: torch.Tensor, one_pass: Sequence, classes: list[int], plan) -> None:
    """The rows of a part are the prompts of its classes, and where it says that they are in the larger pass."""
    rows, whole = one_pass
    inside, wanted = plan.part
    assert torch.equal(inside.of(whole.ids), plan.ids)
    assert torch.equal(inside.of(whole.positions), plan.positions)
    assert [int(rows[place]) for first, last in wanted.ranges for place in range(first, last)] == classes
    assert (inside.total, wanted.total) == (len(whole.ids), len(rows))
    assert sum(plan.sizes) == len(plan.ids)
    start = plan.opening
    for label, end in zip(classes, plan.ends.tolist(), strict=True):
        prompt = torch.cat([plan.ids[: plan.opening], plan.ids[start : end + 1]])
        assert torch.equal(prompt, tokens[label, : len(prompt)])
        start = end + 1
