"""Dropout masks: the same for the same seed, on every device, also for a part of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PartRows", "draw_seed", "dropout_mask", "dropout_masks"]

# Masks compare 16-bit random integers with a threshold: p is met to within 2**-17.
_LEVELS = 1 << 16
_LOWEST_BITS = 0x0101010101010101  # of the eight bytes of a word
# Where ``random_`` fills all 64 bits of a word. MPS refuses that range: its integers are drawn with 32 bits.
_WORD_DEVICES = ("cpu", "cuda")


def draw_seed() -> int:
    """Draw a seed for one call's masks from torch's global CPU random stream.

    Being part of that stream it follows ``torch.manual_seed``, the state that gradient checkpointing
    restores, and the state that a training checkpoint saves.
    """
    return int(torch.randint(1 << 62, ()))


class PartRows(NamedTuple):
    """Some rows of a larger matrix, which get the masks that they have there.

    Attributes:
        total: Rows of the larger matrix.
        ranges: The first row of each run of rows, and the first behind it.
    """

    total: int
    ranges: tuple[tuple[int, int], ...]

    def of(self, matrix: Tensor) -> Tensor:
        """Return these rows (rows, d) of the larger matrix."""
        return torch.cat([matrix[first:last] for first, last in self.ranges])


def dropout_mask(like: Tensor, p: float, generator: torch.Generator, rows: PartRows | None = None) -> Tensor:
    """Draw the next dropout mask: zero with probability p, otherwise 1 / (1 - p).

    Args:
        like: Tensor whose shape, type and device the mask takes.
        p: Probability of a zero, in [0, 1); met to within 2**-17, and the scale is exact for the value met.
        generator: Where the random numbers come from; on the device of ``like``.
        rows: Which rows of a larger matrix ``like`` holds, if it is a part of one: the numbers are drawn for all of it.

    Returns:
        The mask.
    """
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    draws = _draw_16_bits(_whole(like, rows), like.device, generator)
    if rows is not None:
        draws = rows.of(draws)
    return (draws >= dropped - _LEVELS // 2).to(like.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def _whole(like: Tensor, rows: PartRows | None) -> torch.Size:
    """Return the shape that numbers are drawn for."""
    return like.shape if rows is None else torch.Size((rows.total, *like.shape[1:]))


def _draw_16_bits(shape: torch.Size, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw uniform 16-bit integers."""
    if device.type not in _WORD_DEVICES:
        draws = torch.empty(shape, dtype=torch.int16, device=device)
        return draws.random_(-_LEVELS // 2, _LEVELS // 2, generator=generator)
    words = _draw_words((shape.numel() + 3) // 4, device, generator)
    return words.view(torch.int16)[: shape.numel()].view(shape)  # 4 draws in a word


def _draw_words(count: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw ``count`` words of 64 random bits, on one of ``_WORD_DEVICES``."""
    words = torch.empty(count, dtype=torch.int64, device=device)
    return words.random_(-(1 << 63), None, generator=generator)


def dropout_masks(
    like: Tensor, p: float, generator: torch.Generator, rows: PartRows | None = None
) -> Iterator[Tensor]:
    """Draw independent dropout masks of the shape of ``like``, without end; see ``dropout_mask``.

    Where p is 1/4, 1/2 or 3/4, two random bits are enough for a value. So one byte for each value serves four masks,
    and eight values are decided at a time, in one 64-bit word. Devices that draw no such words take ``dropout_mask``.
    """
    quarters, shape = 4 * p, _whole(like, rows)
    while quarters in (1, 2, 3) and like.device.type in _WORD_DEVICES:
        words = _draw_words((shape.numel() + 7) // 8, like.device, generator)
        for shift in range(0, 8, 2):
            ones = words >> (shift + 1)  # in 2 of 4 cases
            if quarters == 1:
                ones |= words >> shift  # in 3
            elif quarters == 3:
                ones &= words >> shift  # in 1
            ones &= _LOWEST_BITS
            kept = ones.view(torch.uint8)[: shape.numel()].view(shape)
            yield (kept if rows is None else rows.of(kept)).to(like.dtype).mul_(1 / (1 - p))
    while True:
        yield dropout_mask(like, p, generator, rows)
