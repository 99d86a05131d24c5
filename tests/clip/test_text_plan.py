from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.clip import load_clip, tokenize
from blocklora.clip.text_plan import Group, prompt_lengths, text_plan, text_plans
from blocklora.data import prompts

END = 99


def prompt_rows(bodies: list[list[int]]) -> torch.Tensor:
    """Token ids: begin, the body, the end; padded by the end."""
    width = max(map(len, bodies)) + 2
    return torch.tensor([[98, *body] + [END] * (width - 1 - len(body)) for body in bodies])


@given(
    st.lists(st.lists(st.integers(1, 4), max_size=6), min_size=1, max_size=12),
    st.booleans(),
    st.integers(1, 13),
)
@settings(deadline=None, derandomize=True)
def test_every_prompt_is_there_once(bodies: list[list[int]], share: bool, chunk: int) -> None:
    tokens = prompt_rows(bodies)
    wanted = [[98, *body, END] for body in bodies]
    assert prompt_lengths(tokens, END).tolist() == [len(row) for row in wanted]
    found: dict[int, list[int]] = {}
    longest = 0
    for rows, plan in text_plans(tokens, END, chunk=chunk, share=share):
        assert 0 < len(rows) <= chunk
        parts = torch.split(plan.ids, plan.sizes)
        opening = parts[0].tolist()
        assert plan.positions[: plan.opening].tolist() == list(range(plan.opening))
        assert [group.length for group in plan.groups] == sorted({group.length for group in plan.groups})
        assert all(group.length > 0 for group in plan.groups)
        remaining = [
            opening + row.tolist()
            for part, group in zip(parts[1:], plan.groups, strict=True)
            for row in part.view(group.count, group.length)
        ]
        places = torch.split(plan.positions, plan.sizes)[1:]
        for part, group in zip(places, plan.groups, strict=True):
            assert (part.view(-1, group.length) == torch.arange(group.length) + plan.opening).all()
        assert plan.ids[plan.ends].tolist() == [END] * len(rows)
        for row, place in zip(rows.tolist(), plan.back.tolist(), strict=True):
            found[row] = remaining[place]
        common = [wanted[row] for row in rows.tolist()]
        assert min(map(len, common)) >= longest  # passes take prompts by growing length
        longest = max(map(len, common))
        if share and len(common) > 1:  # the opening is as long as it can be
            least = min(map(len, common)) - 1
            assert plan.opening == least or len({row[plan.opening] for row in common}) > 1
        else:
            assert plan.opening == 0
    assert [found[row] for row in range(len(bodies))] == wanted


def test_a_layout() -> None:
    tokens = prompt_rows([[5, 6, 7], [5, 6], [5, 6, 8], [5, 6, 7, 9]])
    plan = text_plan(tokens, END, share=True)
    assert plan.opening == 3
    assert plan.groups == (Group(1, 1), Group(2, 2), Group(1, 3))
    assert plan.ids.tolist() == [98, 5, 6, END, 7, END, 8, END, 7, 9, END]
    assert plan.positions.tolist() == [0, 1, 2, 3, 3, 4, 3, 4, 3, 4, 5]
    assert plan.ends.tolist() == [3, 5, 7, 10]
    assert plan.back.tolist() == [1, 0, 2, 3]
    assert plan.sizes == [3, 1, 4, 3]


def test_the_end_is_where_transformers_reads() -> None:
    tokens = torch.tensor([[98, 5, 99, 99], [98, 99, 7, 99], [1, 2, 3, 4], [4, 2, 3, 4]])
    assert prompt_lengths(tokens, 99).tolist() == [3, 2, 1, 1]  # no end at all: transformers reads row 0
    assert prompt_lengths(tokens, 2).tolist() == [3, 2, 4, 1]  # the first of the largest ids


def test_prompts_at_and_over_the_limit(clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder))
    end = clip.model.config.text_config.eos_token_id
    fits = next(
        name
        for name in ("cat" + " dog" * count for count in range(40))
        if len(clip.tokenizer(f"a photo of a {name}.")["input_ids"]) == clip.context_length
    )
    sentences = prompts(["dog", fits, f"{fits} and {fits}"], "a photo of a {}.")
    tokens, cut = tokenize(sentences, clip.tokenizer, clip.context_length)
    assert cut == [sentences[2]]
    assert prompt_lengths(tokens, end).tolist()[1:] == [clip.context_length] * 2
    assert tokens[2, -1] == end
    plan = text_plan(tokens, end, share=True)
    assert plan.positions.max() == clip.context_length - 1
    assert clip.tokenizer.decode(plan.ids[: plan.opening]).endswith("a photo of a")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_thousand_classes_in_order(chunk: int) -> None:
    draw = torch.Generator().manual_seed(0)
    bodies: Any = [torch.randint(1, 90, (int(n),), generator=draw).tolist() for n in torch.arange(1000) % 13]
    tokens = prompt_rows(bodies)
    rows = torch.cat([rows for rows, _ in text_plans(tokens, END, chunk=chunk, share=True)])
    assert rows.sort().values.tolist() == list(range(1000))
