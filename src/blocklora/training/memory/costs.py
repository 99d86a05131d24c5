"""What a training step of the lean engine computes and keeps, counted from shapes alone.

Letters: T rows that go through a tower, W rows of them that are wanted at its end (an image's class token, a prompt's
end-of-text token), d the width of a tower, m that of its MLP, K the rank of the low-rank part of one (fused) layer,
e bytes of a number.

FLOPs are those of the matrix products, two for a multiply-add, attention's included; tests count the same with torch's
own counter. Saved bytes are what autograd holds between forward and backward, the weights left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from blocklora.clip.lean import Keep
from blocklora.clip.text_plan import Group

__all__ = ["Cost", "Rows", "TowerShape", "image_rows", "text_rows", "tower_cost"]

_ATTENTION_BACKWARD = 2.5  # of the forward: scores once more, and four products
_FORWARD_WIDTHS = (
    10  # of d that a block needs for a moment where nothing is kept: its MLP's inside twice, and more
)
_STATISTICS = 2  # mean and reciprocal deviation of a LayerNorm, a number a row each


@dataclass(frozen=True)
class TowerShape:
    """The shape of one tower, and of the adapters in it.

    Attributes:
        width: d.
        mlp: m.
        layers: How many blocks.
        heads: Attention heads of a block.
        first: The first adapted block; ``layers`` where none is.
        ranks: K of (q, k, v), out, fc1 and fc2 of an adapted block; 0 where a layer has no adapter.
        adapted: How many blocks are adapted; all from ``first`` on where None.
    """

    width: int
    mlp: int
    layers: int
    heads: int
    first: int
    ranks: tuple[int, int, int, int]
    adapted: int | None = None

    def is_adapted(self, block: int) -> bool:
        """Return whether a block has adapters."""
        count = self.layers - self.first if self.adapted is None else self.adapted
        return self.first <= block < self.first + count

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """(d_in, d_out) of the four layers that ``ranks`` speaks of."""
        d, m = self.width, self.mlp
        return (d, 3 * d), (d, d), (d, m), (m, d)


@dataclass(frozen=True)
class Rows:
    """What goes through a tower at a time.

    Attributes:
        total: T.
        wanted: W.
        pairs: Query-key pairs of one block's attention.
        last_pairs: Those of the last block, where only wanted rows ask (``clip.lean.pooled``).
        light: Whether attention keeps nothing and is computed again in backward; in the last block it always is.
    """

    total: int
    wanted: int
    pairs: int
    last_pairs: int
    light: bool


@dataclass(frozen=True)
class Cost:
    """What one pass through a tower costs.

    Attributes:
        forward: FLOPs of the forward.
        backward: FLOPs of the backward, what is computed again included.
        saved: Bytes kept in between.
        peak: The most bytes at any time in either pass, what is kept included.
    """

    forward: float
    backward: float
    saved: int
    peak: int


def image_rows(images: int, tokens: int) -> Rows:
    """Return the rows of images that have so many tokens each, the class token included."""
    total = images * tokens
    return Rows(total, images, total * tokens, total, light=False)


def text_rows(opening: int, groups: Iterable[Group]) -> Rows:
    """Return the rows of a text plan."""
    groups = tuple(groups)
    wanted = sum(group.count for group in groups)
    return Rows(
        total=opening + sum(group.count * group.length for group in groups),
        wanted=wanted,
        pairs=opening**2 + sum(group.count * group.length * (opening + group.length) for group in groups),
        last_pairs=sum(group.count * (opening + group.length) for group in groups),
        light=True,
    )


@lru_cache(maxsize=4096)
def tower_cost(shape: TowerShape, rows: Rows, keep: Keep, number: int, *, prefix_known: bool = False) -> Cost:
    """Count one forward and backward pass of a tower's blocks.

    Args:
        shape: The tower.
        rows: What goes through it.
        keep: What its blocks keep.
        number: e.
        prefix_known: Whether what goes into the first adapted block was computed before.
    """
    forward = backward = 0.0
    saved = peak = 0
    for block in range(shape.layers):
        last = block == shape.layers - 1
        ranks = shape.ranks if shape.is_adapted(block) else (0, 0, 0, 0)
        ahead = _forward(shape, rows, ranks, last)
        forward += 0.0 if prefix_known and block < shape.first else ahead
        if block < shape.first:
            peak = max(peak, number * rows.total * _FORWARD_WIDTHS * shape.width)
            continue
        # Before the first adapter of all nothing has a gradient, and nothing is kept.
        start = (
            next((place for place, rank in enumerate(ranks) if rank), None) if block == shape.first else None
        )
        kept = _saved(shape, rows, ranks, last, start or 0, "no-mlp" if keep == "no-mlp" else "all", number)
        backward += _backward(shape, rows, ranks, last, start)
        if keep == "inputs":
            backward += ahead
            saved += number * rows.total * shape.width
        else:
            saved += kept
            backward += _mlp_again(shape, rows, ranks, last) if keep == "no-mlp" else 0
        # Backward begins at the last block, and frees what a block kept when it is through with it.
        again = kept if keep == "inputs" else 0
        peak = max(peak, saved + again + number * _working(shape, rows, ranks, last, keep))
    return Cost(forward, backward, saved, peak)


def _linear(shape: TowerShape, rows: Rows, last: bool) -> list[tuple[int, int, int]]:
    """(rows, d_in, d_out) of a block's four layers."""
    behind = rows.wanted if last else rows.total  # of the attention
    counts = (rows.total, behind, behind, behind)
    return [(count, *widths) for count, widths in zip(counts, shape.widths, strict=True)]


def _attention(shape: TowerShape, rows: Rows) -> float:
    """FLOPs of a block's attention: scores, and their sums of values."""
    return 4.0 * shape.width * rows.pairs


def _pooled(shape: TowerShape, rows: Rows, rank: int) -> tuple[float, float, float]:
    """FLOPs of the last block's attention, q, k and v included: of ``thin``, of matrices, and of scores and sums.

    Matrices: the wanted rows meet those of q, k and v, each d wide and with its part of the low-rank one.
    """
    d = shape.width
    thin = 2.0 * rows.total * rank * d
    matrix = 2.0 * rows.wanted * d * (d + rank)
    return thin, 3 * matrix, 4.0 * shape.heads * (d + rank) * rows.last_pairs


def _forward(shape: TowerShape, rows: Rows, ranks: Sequence[int], last: bool) -> float:
    """FLOPs of a block's forward."""
    layers = list(zip(_linear(shape, rows, last), ranks, strict=True))
    start = sum(_pooled(shape, rows, ranks[0])) if last else _attention(shape, rows)
    return start + sum(
        2.0 * count * (d_in * d_out + _low_rank(rank, d_in, d_out))
        for (count, d_in, d_out), rank in layers[1 if last else 0 :]
    )


def _low_rank(rank: int, d_in: int, d_out: int) -> int:
    """Multiplications of the low-rank part for a row; the bias is one more column of its small product."""
    return rank * (d_in + d_out) + d_out if rank else 0


def _backward(shape: TowerShape, rows: Rows, ranks: Sequence[int], last: bool, start: int | None) -> float:
    """FLOPs of a block's backward, back to its input, or to the layer ``start``, the first that is trained."""
    total = 0.0
    if not start:
        total += _attention_backward(shape, rows, ranks[0], last, start)
    for place, ((count, d_in, d_out), rank) in enumerate(zip(_linear(shape, rows, last), ranks, strict=True)):
        if place >= (start or 0) and not (last and place == 0):
            down = 0 if place == start else 1
            total += 2.0 * count * (down * d_in * d_out + rank * (2 * d_out + (1 + down) * d_in))
    return total


def _attention_backward(shape: TowerShape, rows: Rows, rank: int, last: bool, start: int | None) -> float:
    """FLOPs of the backward of a block's attention, what is computed of it again included."""
    if not last:
        return _attention(shape, rows) * (_ATTENTION_BACKWARD + (1 if rows.light else 0))
    thin, matrices, scores = _pooled(shape, rows, rank)
    wide = 2.0 * rows.wanted * shape.width
    again = thin + matrices + scores - wide * (rank or shape.width)  # the last product serves nothing
    thin_backward = thin * (1 if start == 0 else 2)  # nothing is below the first layer that is trained
    return again + scores * _ATTENTION_BACKWARD + matrices + 3 * wide * rank + thin_backward


def _mlp_again(shape: TowerShape, rows: Rows, ranks: Sequence[int], last: bool) -> float:
    """FLOPs of computing the inside of a block's MLP again."""
    count, d_in, d_out = _linear(shape, rows, last)[2]
    return 2.0 * count * (d_in * d_out + _low_rank(ranks[2], d_in, d_out))


def _saved(
    shape: TowerShape, rows: Rows, ranks: Sequence[int], last: bool, start: int, keep: Keep, number: int
) -> int:
    """Bytes that a block keeps: its input, q k v, the attention's output and sums, the MLP's input and inside."""
    d, behind = shape.width, rows.wanted if last else rows.total
    total = sums = 0
    layers = list(zip(_linear(shape, rows, last), ranks, strict=True))
    if last:
        if start == 0:
            total += rows.total * d + 4 * d * ranks[0]  # its input, and the factors
        total += behind * d if start <= 1 and ranks[1] else 0
        layers = layers[1:]
    elif start == 0:
        total += rows.total * (4 * d + _STATISTICS)
        sums = 0 if rows.light else 4 * behind * shape.heads  # of exponentials, always float32
    if not last and start <= 1 and (ranks[1] or (start == 0 and not rows.light)):
        total += behind * d  # the attention's output; an adapted out_proj keeps it as its input
    total += behind * (d + _STATISTICS + (shape.mlp if keep == "all" else 0))
    for (count, d_in, d_out), rank in layers:
        total += rank * (count + d_in + d_out)  # the small product, and the factors
    return number * total + sums


def _working(shape: TowerShape, rows: Rows, ranks: Sequence[int], last: bool, keep: Keep) -> int:
    """Numbers that a block's backward holds for a moment beside what the block kept.

    Its MLP comes first. What that kept is freed before the gradients of q, k and v are made.
    """
    d, m, behind = shape.width, shape.mlp, rows.wanted if last else rows.total
    recomputed = keep == "no-mlp"
    # The inside's gradient before and behind the activation; an adapter's input, its mask, and both parts as well.
    wide = 5 if ranks[3] else 2
    mlp = behind * (wide * m + 2 * d + (m + d if recomputed else 0))  # made again: the inside itself
    freed = behind * (d + _STATISTICS + (0 if recomputed else m))  # its input and its inside
    if not last:
        return max(
            mlp, rows.total * 10 * d - freed
        )  # gradients of q, k and v, once apart and once together; masks
    # The LayerNorm's output, alone and in z; of q, k and v a mask each and what it leaves; and a gradient. Of what
    # is looked at, the opening once a prompt: itself, gradients as keys and as values, and their sum.
    own = 9 if ranks[0] else 3
    return max(mlp, own * rows.total * d + 4 * rows.last_pairs * d - freed)
