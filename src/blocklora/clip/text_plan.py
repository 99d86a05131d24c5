"""How the prompts of all classes are laid out for the lean text tower: no padding, and their common opening once.

Axis letters: N prompts, L tokens of the longest, P tokens of the common opening, T rows in all.

CLIP's text tower is causal and is read at the end-of-text token. So the tokens after it change nothing and are cut,
and the tokens before the first difference have the same keys and values for every class. The rows are those of the
opening, then the other tokens of the prompts, in groups of equal length:

    [ opening: P | group 1: n_1 prompts of l_1 tokens | group 2: n_2 of l_2 | ... ]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklora.adapter.masks import PartRows

__all__ = ["Group", "TextPlan", "prompt_lengths", "text_plan", "text_plans"]


@dataclass(frozen=True)
class Group:
    """``count`` prompts that have ``length`` tokens after the opening."""

    count: int
    length: int


@dataclass(frozen=True)
class TextPlan:
    """The rows of one pass through the text tower.

    Attributes:
        ids: Token ids (T,).
        positions: Their positions in their prompts (T,).
        opening: P, 0 where nothing is shared.
        groups: The groups, by growing length.
        ends: The row of every prompt's end-of-text token (N,), in the order of the rows.
        back: Place of every prompt in that order (N,): ``features[back]`` has the order of the prompts.
        part: Where this is a part of a larger pass: which rows of it these are, and which of its prompts.
    """

    ids: Tensor
    positions: Tensor
    opening: int
    groups: tuple[Group, ...]
    ends: Tensor
    back: Tensor
    part: tuple[PartRows, PartRows] | None = None

    @property
    def sizes(self) -> list[int]:
        """How many rows the opening and each group have."""
        return [self.opening, *(group.count * group.length for group in self.groups)]

    @property
    def lengths(self) -> list[int]:
        """How many rows each prompt has after the opening, in the order of the rows."""
        return [group.length for group in self.groups for _ in range(group.count)]

    def cut(self, first: int, last: int) -> TextPlan:
        """Return the plan of the prompts from place ``first`` to before ``last`` in the order of the rows.

        Its prompts have that order, and the same opening as here.
        """
        lengths = self.lengths
        starts = [self.opening, *(self.ends + 1).tolist()]
        rows = ((0, self.opening), (starts[first], starts[last]))
        own = Counter(lengths[first:last])
        return TextPlan(
            torch.cat([self.ids[a:b] for a, b in rows]),
            torch.cat([self.positions[a:b] for a, b in rows]),
            self.opening,
            tuple(Group(count, length) for length, count in own.items()),
            self.ends[first:last] - (starts[first] - self.opening),
            torch.arange(last - first),
            (PartRows(len(self.ids), rows), PartRows(len(self.ends), ((first, last),))),
        )


def prompt_lengths(tokens: Tensor, eos_token_id: int) -> Tensor:
    """Return how many tokens each prompt has, up to the one that transformers reads the feature at.

    Args:
        tokens: Token ids (N, L), padded after the end.
        eos_token_id: The text tower's setting. OpenAI's first configurations say 2, which is wrong: there the
            tower is read at the largest id.

    Returns:
        Lengths (N,), the end-of-text token included.
    """
    ends = tokens if eos_token_id == 2 else (tokens == eos_token_id).int()
    return ends.argmax(dim=1) + 1


def text_plans(
    tokens: Tensor, eos_token_id: int, *, chunk: int, share: bool
) -> list[tuple[Tensor, TextPlan]]:
    """Cut prompts, token ids (N, L), into passes of at most ``chunk``, prompts of similar length together.

    Returns:
        For each pass the indices of its prompts, and its plan.
    """
    order = prompt_lengths(tokens, eos_token_id).argsort(stable=True)
    return [(rows, text_plan(tokens[rows], eos_token_id, share=share)) for rows in torch.split(order, chunk)]


def text_plan(tokens: Tensor, eos_token_id: int, *, share: bool) -> TextPlan:
    """Lay out prompts for one pass.

    Args:
        tokens: Token ids (N, L) on the CPU.
        eos_token_id: See ``prompt_lengths``.
        share: Whether the common opening is computed once. Exact without dropout. With dropout the masks have the
            same distribution, but all classes share those of the opening.

    Returns:
        The plan, on the CPU.
    """
    lengths = prompt_lengths(tokens, eos_token_id)
    opening = _opening(tokens, lengths) if share else 0
    rest = lengths - opening
    order = rest.argsort(stable=True)
    ids, positions = [tokens[0, :opening]], [torch.arange(opening)]
    ends: list[Tensor] = []
    groups: list[Group] = []
    rows = opening
    for length, count in zip(
        *(part.tolist() for part in torch.unique(rest, return_counts=True)), strict=True
    ):
        members = order[sum(group.count for group in groups) :][:count]
        ids.append(tokens[members, opening : opening + length].reshape(-1))
        positions.append(torch.arange(opening, opening + length).repeat(count))
        ends.append(rows + length * torch.arange(1, count + 1) - 1)
        groups.append(Group(count, length))
        rows += count * length
    return TextPlan(
        torch.cat(ids), torch.cat(positions), opening, tuple(groups), torch.cat(ends), order.argsort()
    )


def _opening(tokens: Tensor, lengths: Tensor) -> int:
    """Return how many tokens all prompts begin with, leaving at least one token of each prompt."""
    if len(tokens) == 1:
        return 0
    common = int(lengths.min()) - 1
    same = (tokens[:, :common] == tokens[0, :common]).all(dim=0)  # (common,)
    return int(same.int().cumprod(0).sum())
