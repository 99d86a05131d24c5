"""From many pictures to their features, with unreadable ones set apart.

Axes: M = readable pictures, D = the width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blocklora.clip.features import read_ahead
from blocklora.clip.preprocess import pixels
from blocklora.core.errors import ImageError
from blocklora.data import Source, Unreadable, open_image

__all__ = ["Encoded", "encode_pictures"]


@dataclass(frozen=True)
class Encoded:
    """Features of the pictures that could be read.

    Attributes:
        features: What ``forward`` gave for each (M, ...), float32 on the CPU.
        kept: The index of each among the pictures given (M,).
        unreadable: The others, with the reason.
    """

    features: torch.Tensor
    kept: list[int]
    unreadable: list[Unreadable]


@torch.no_grad()
def encode_pictures(
    pictures: Sequence[tuple[str, Source]],
    forward: Callable[[torch.Tensor], torch.Tensor],
    processor: Any,
    *,
    device: torch.device,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Decode, preprocess and encode pictures; decoding runs ahead in threads.

    Args:
        pictures: Names (for messages) and sources.
        forward: Takes pixel values (B, 3, S, S) on the device and returns (B, ...).
        processor: The checkpoint's image processor.
        device: Where ``forward`` computes.
        batch_size: B.
        on_batch: Told how many pictures are done.
    """

    def prepare(start: int) -> list[torch.Tensor | Unreadable]:
        return [_prepare(name, source, processor) for name, source in pictures[start : start + batch_size]]

    features, kept, unreadable = [], [], []
    starts = range(0, len(pictures), batch_size)
    for start, batch in zip(starts, read_ahead(prepare, starts), strict=True):
        good = [
            (start + place, value) for place, value in enumerate(batch) if isinstance(value, torch.Tensor)
        ]
        unreadable += [value for value in batch if isinstance(value, Unreadable)]
        if good:
            kept += [index for index, _ in good]
            features.append(forward(torch.stack([value for _, value in good]).to(device)).float().cpu())
        if on_batch:
            on_batch(start + len(batch))
    return Encoded(torch.cat(features) if features else torch.empty(0, 0), kept, unreadable)


def _prepare(name: str, source: Source, processor: Any) -> torch.Tensor | Unreadable:
    """Return a picture's pixel values (3, S, S), or why there are none."""
    try:
        return pixels(open_image(source), processor)
    except ImageError as error:
        return Unreadable(name, str(error))
