"""The same augmented views of every image, again and again: the frozen part of the image tower runs once over each.

With adapters in the top blocks alone, the rows that go into the first adapted block depend on the view and on nothing
that is trained: they are computed once, kept in 16 bits, and every step runs only the blocks above. What is given up is
that crops are new in every epoch. Exact for these views, but for the rounding to 16 bits; computing in 16 bits anyway,
there is none.

Axes: V = views of an image, M = images, B = images of a batch, L = tokens of an image, d = the tower's width,
S = the side of the model's square.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blocklora.core.errors import ConfigError
from blocklora.core.resources import format_bytes
from blocklora.core.threads import read_ahead
from blocklora.training.images import TrainingImages

__all__ = ["EncodedViews", "FixedViews"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FixedViews:
    """V views of every image; epoch e shows view e modulo V of each.

    Attributes:
        images: The images.
        number: V.
        kept_bytes: What the encoded views will take.
        folder: Where their file is; None: they are kept in memory.
        exact: Whether they are kept as they were computed, and not in 16 bits.
    """

    images: TrainingImages
    number: int
    kept_bytes: int = 0
    folder: Path | None = None
    exact: bool = False

    @property
    def batch_size(self) -> int:
        """The largest B."""
        return self.images.batch_size

    def rows(self, step: int) -> list[int]:
        """Return which of the M V views are this rank's part of a step's batch: those of image i begin at i V."""
        view = self.images.epoch(step) % self.number
        return [index * self.number + view for index in self.images.own_indices(step)]

    def labels(self, step: int) -> Tensor:
        """Return the labels (B,) of a step."""
        return self.images.labels(step)

    def views(self, index: int) -> Tensor:
        """Return the pixel values of all views of one image (V, 3, S, S)."""
        return torch.stack([self.images.view(index, number) for number in range(self.number)])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return pixel values (B, 3, S, S) and labels (B,) of a step, not encoded."""
        places = [divmod(row, self.number) for row in self.rows(step)]
        return torch.stack([self.images.view(*place) for place in places]), self.labels(step)


class EncodedViews:
    """Batches of what an encoder made of fixed views, once.

    Args:
        views: The views.
        encode: Takes pixel values (B, 3, S, S) on the device, and returns (B, ...).
        size: How many views are encoded at a time.
        device: Where.

    Raises:
        ConfigError: The disk is too small for them, or a value is too large for 16 bits.
    """

    def __init__(
        self, views: FixedViews, encode: Callable[[Tensor], Tensor], size: int, device: torch.device
    ) -> None:
        self._views = views
        _LOG.info("computing %d views of each of %d images once", views.number, len(views.images))
        group = max(1, size // views.number)  # images that are encoded together
        waiting: list[Tensor] = []
        place, kept = 0, None
        for index, pixels in enumerate(read_ahead(views.views, range(len(views.images)), ahead=2 * group), 1):
            waiting.append(pixels)
            if len(waiting) < group and index < len(views.images):
                continue
            for part in torch.split(torch.cat(waiting), size):
                encoded = _stored(encode(part.to(device)).cpu(), exact=views.exact)
                if kept is None:
                    shape = (len(views.images) * views.number, *encoded.shape[1:])
                    kept = _room(shape, encoded.dtype, views.folder)
                kept[place : place + len(encoded)] = encoded
                place += len(encoded)
            waiting = []
        assert kept is not None  # there is always an image
        self._kept = kept

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return what was made of the views (B, ...) and the labels (B,) of a step."""
        return self._kept[self._views.rows(step)], self._views.labels(step)


def _stored(encoded: Tensor, *, exact: bool) -> Tensor:
    """Return rows in the type that they are kept in: features (B, D) as they are, tokens (B, L, d) in 16 bits."""
    if exact or encoded.dim() == 2 or encoded.dtype != torch.float32:
        return encoded
    half = encoded.half()
    if not half.isfinite().all():
        raise ConfigError(
            "cached_views: the image tower's activations are too large for 16 bits; leave cached_views out."
        )
    return half


def _room(shape: Sequence[int], dtype: torch.dtype, folder: Path | None) -> Tensor:
    """Return an empty tensor in memory, or in a file without a name that goes when the tensor does."""
    if folder is None:
        return torch.empty(shape, dtype=dtype)
    needed, free = math.prod(shape) * dtype.itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"cached_views: the views need {format_bytes(needed)}, more than there is memory for, and {folder} has "
            f"{format_bytes(free)} free; ask for fewer views, or for 0, as many as fit into memory."
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=(needed,))  # it keeps the file open
    return torch.from_numpy(mapped).view(dtype).view(tuple(shape))
