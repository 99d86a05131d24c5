"""Who does what of a step. A share is a run of images, or of classes; the plan's passes stay those of one process.

A pass draws its dropout masks for all its members, wherever they are computed (``clip.lean``). So the masks of an image
or a class depend on the step, the plan and its place, and not on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
from torch import Tensor

from blocklora.clip.text_plan import TextPlan
from blocklora.core.ranks import Ranks

__all__ = ["OwnPass", "Piece", "by_weight", "own_passes", "own_pieces", "pieces"]

OwnPass = tuple[int, Tensor, TextPlan]
"""The place of a pass, the classes that a rank has of it (n,), and how they go through the text tower."""


@dataclass(frozen=True)
class Piece:
    """What a share has of one pass.

    Attributes:
        place: Which pass.
        first: The place of its first member in the pass.
        last: The place behind its last member.
        of: How many members the pass has.
    """

    place: int
    first: int
    last: int
    of: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the pass."""
        return self.last - self.first == self.of


def by_weight(weights: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Cut a row of members into ``count`` runs of about the same weight.

    Args:
        weights: Of each member, above 0.
        count: How many runs; some are empty where there are fewer members.

    Returns:
        The first member of each run, and the first behind it; together they are all members.
    """
    reached = np.cumsum(weights)
    wanted = reached[-1] * np.arange(1, count) / count
    ends = np.searchsorted(reached - np.asarray(weights) / 2, wanted)  # a member goes where its middle lies
    cuts = [0, *ends.tolist(), len(reached)]
    return list(pairwise(cuts))


def pieces(sizes: Sequence[int], first: int, last: int) -> Iterator[Piece]:
    """Yield what the members from ``first`` to before ``last`` are in passes of these sizes."""
    start = 0
    for place, size in enumerate(sizes):
        begin, end = max(first, start), min(last, start + size)
        if begin < end:
            yield Piece(place, begin - start, end - start, size)
        start += size


def own_pieces(count: int, size: int, ranks: Ranks) -> Iterator[tuple[Piece | None, tuple[int, ...]]]:
    """Share images that go through the tower ``size`` at a time.

    Yields:
        The next piece of this rank, none where it is through and others are not; and how many images every rank has in
        its next piece.
    """
    passes = [min(size, count - start) for start in range(0, count, size)]
    shares = [Ranks(rank, ranks.count).share(count) for rank in range(ranks.count)]
    for several in zip_longest(*(pieces(passes, *share) for share in shares)):
        yield several[ranks.rank], tuple(piece.last - piece.first if piece else 0 for piece in several)


def own_passes(passes: Sequence[tuple[Tensor, TextPlan]], ranks: Ranks) -> list[OwnPass]:
    """Share the passes through the text tower by their tokens.

    Args:
        passes: Of one process: the classes (n,) of each, and its plan.
        ranks: The processes.

    Returns:
        What this rank has of them.
    """
    if ranks.count == 1:
        return [(place, rows, plan) for place, (rows, plan) in enumerate(passes)]
    members = [rows[plan.back.argsort()] for rows, plan in passes]  # classes, in the order of the plan's rows
    shares = by_weight([length for _, plan in passes for length in plan.lengths], ranks.count)
    own: list[OwnPass] = []
    for piece in pieces([len(classes) for classes in members], *shares[ranks.rank]):
        plan = passes[piece.place][1].cut(piece.first, piece.last)
        own.append((piece.place, members[piece.place][piece.first : piece.last], plan))
    return own
