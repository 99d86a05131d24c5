"""The training images of every step: which ones, and how they are cut and flipped.

Everything follows from (seed, step) alone, so a resumed run sees what an uninterrupted one would have seen.
Axes: B = images of a batch, S = the side that the model reads, in pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from blocklora.clip import crop_size, pixels, random_crop
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.seeds import Stream, generator
from blocklora.data import Example, open_for_model, open_image

__all__ = ["KEPT_BYTES", "Augment", "TrainingImages"]

Augment = Literal["crop-flip", "crop", "none"]
KEPT_BYTES = 2 * 1024**3
"""The most bytes of decoded images that are kept."""
_FEW = 8
_LARGER = 4  # photos are decoded at no less than this many times S, enough for the smallest crop


class TrainingImages:
    """Batches of pixel values, by step.

    Every epoch shuffles all images and cuts them into batches; the last batch may be smaller.

    Args:
        examples: Readable images with their labels.
        processor: The checkpoint's image processor.
        batch_size: The largest B.
        augment: ``crop-flip`` (a random crop of 8% to 100% of the area, then a mirror image half of the
            time), ``crop`` (no mirror image), or ``none`` (what a test image gets).
        seed: Where all randomness comes from.
        ranks: The processes that share every batch: each is given its own part.

    Attributes:
        batch_size: The largest B.
        budget: How many bytes of decoded images are kept; the others are decoded whenever they are due.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        processor: Any,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._examples = examples
        self._processor = processor
        self.batch_size = min(batch_size, len(examples))
        self._augment = augment
        self._seed = seed
        self._ranks = ranks
        self._size = crop_size(processor)
        self.budget = KEPT_BYTES
        self._kept: dict[int, Image.Image] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def expected_bytes(self) -> int:
        """Estimate what the kept images will take, from the first few, which are opened for it."""
        few = range(min(_FEW, len(self._examples)))
        sizes = [3 * image.width * image.height for image in map(self._open, few)]
        return min(sum(sizes) * len(self._examples) // len(sizes), self.budget)

    @property
    def fixed(self) -> bool:
        """Whether an image's pixel values are the same in every step."""
        return self._augment == "none"

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._examples)

    def view(self, index: int, number: int) -> torch.Tensor:
        """Return the pixel values (3, S, S) of one of the fixed views of an image."""
        return self._cut(self._open(index), generator(self._seed, Stream.FEATURE_CROP, number, index))

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to, counted from 0."""
        return step // -(-len(self._examples) // self.batch_size)

    def all_pixels(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield the pixel values (b, 3, side, side) of all images in order, b <= ``batch_size``, without augmentation.

        Of several ranks each is given its share of the images.
        """
        first, last = self._ranks.share(len(self._examples))
        for start in range(first, last, batch_size):
            chosen = range(start, min(start + batch_size, last))
            yield torch.stack([pixels(self._open(index), self._processor) for index in chosen])

    def labels(self, step: int) -> torch.Tensor:
        """Return the labels (B,) of a step; of several ranks, of this one's images."""
        indices = self.own_indices(step)
        return torch.tensor([self._examples[index].label for index in indices], dtype=torch.long)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixel values (B, 3, S, S) and labels (B,) of a step, counted from 0; of several ranks, of its part."""
        start, _ = self._ranks.share(len(self.indices(step)))
        indices = self.own_indices(step)
        values = torch.empty(0, 3, self._size, self._size)
        for place, index in enumerate(indices):
            one = self._pixels(index, step, start + place)
            if not place:  # filled in place: stacking would hold a batch twice
                values = one.new_empty(len(indices), *one.shape)
            values[place] = one
        return values, self.labels(step)

    def own_indices(self, step: int) -> list[int]:
        """Return which examples are this rank's part of the batch of a step."""
        indices = self.indices(step)
        first, last = self._ranks.share(len(indices))
        return indices[first:last]

    def indices(self, step: int) -> list[int]:
        """Return which examples make up the batch of a step, on whatever rank."""
        epoch = self.epoch(step)
        batch = step - epoch * -(-len(self._examples) // self.batch_size)
        order = generator(self._seed, Stream.IMAGE_ORDER, epoch).permutation(len(self._examples))
        chosen: list[int] = order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()
        return chosen

    def _pixels(self, index: int, step: int, place: int) -> torch.Tensor:
        """Return the pixel values (3, S, S) of one example at one place of one step."""
        return self._cut(self._open(index), generator(self._seed, Stream.CROP, step, place))

    def _cut(self, image: Image.Image, draw: np.random.Generator) -> torch.Tensor:
        """Return the pixel values (3, S, S) of an image, cut and mirrored by chance unless it is not augmented."""
        if self._augment == "none":
            return pixels(image, self._processor)
        cut = random_crop(image, self._size, draw)
        if self._augment == "crop-flip" and draw.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return pixels(cut, self._processor, resized=True)

    def _open(self, index: int) -> Image.Image:
        """Decode an image, and keep it while there is room."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        source = self._examples[index].source
        image = (
            open_for_model(source, self._size)
            if self.fixed
            else open_image(source, min_side=_LARGER * self._size)
        )
        size = 3 * image.width * image.height
        with self._lock:
            if index not in self._kept and self._kept_bytes + size <= self.budget:
                self._kept[index] = image
                self._kept_bytes += size
        return image
