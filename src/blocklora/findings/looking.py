"""One pass over many images: each is decoded once, for its features and for its properties.

Axes: M = readable images, D = the width of a feature, S = the side of the model's square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import at_once, in_halves
from blocklora.clip import Clip, Engine, ImageTower, crop_size, image_features, pixels
from blocklora.core.device import Compute
from blocklora.core.errors import ImageError
from blocklora.core.threads import read_ahead
from blocklora.data import Source, Unreadable, open_image
from blocklora.findings.properties import MEASURED, Properties, properties

__all__ = ["Looked", "look_at"]


@dataclass(frozen=True)
class Looked:
    """What is kept of many images: no pixels but a sketch of each.

    Attributes:
        features: Unit features (M, D), float32.
        properties: Of each image (M,).
        kept: The place of each among the images given (M,).
        unreadable: The others, with the reason.
    """

    features: NDArray[np.float32]
    properties: tuple[Properties, ...]
    kept: NDArray[np.int64]
    unreadable: tuple[Unreadable, ...]


@torch.no_grad()
def look_at(
    images: Sequence[tuple[str, Source]],
    base: Clip | ImageTower,
    compute: Compute,
    on_batch: Callable[[int], None] | None = None,
    known: NDArray[np.float32] | None = None,
    engine: Engine = "auto",
) -> Looked:
    """Decode, measure and encode images, a batch at a time; decoding runs ahead in threads.

    Args:
        images: Names, for messages, and sources.
        base: The model, on ``compute.device``.
        compute: Where to compute, and how precisely.
        on_batch: Called with the number of images that are done.
        known: Unit features (M, D) of readable images, where they are known: then none is encoded.
        engine: Which one computes them.
    """
    size, side = at_once(compute.device), crop_size(base.processor)

    def prepare(start: int) -> list[tuple[Tensor, Properties] | Unreadable]:
        return [_open(name, source, base.processor, side) for name, source in images[start : start + size]]

    def forward(pixel_values: Tensor) -> Tensor:
        with compute.autocast():
            return image_features(base.model, pixel_values, engine=engine)

    features, measured, kept, unreadable = [], [], [], []
    starts = range(0, len(images), size)
    for start, batch in zip(starts, read_ahead(prepare, starts), strict=True):
        good = [(start + place, one) for place, one in enumerate(batch) if not isinstance(one, Unreadable)]
        unreadable += [one for one in batch if isinstance(one, Unreadable)]
        if good:
            kept += [place for place, _ in good]
            measured += [found for _, (_, found) in good]
            if known is None:
                values = torch.stack([value for _, (value, _) in good]).to(compute.device)
                features.append(in_halves(forward, values).numpy())
            else:
                features.append(known[[place for place, _ in good]])
        if on_batch:
            on_batch(start + len(batch))
    width = features[0].shape[1] if features else 0
    return Looked(
        np.concatenate(features) if features else np.empty((0, width), np.float32),
        tuple(measured),
        np.array(kept, dtype=np.int64),
        tuple(unreadable),
    )


def _open(name: str, source: Source, processor: object, side: int) -> tuple[Tensor, Properties] | Unreadable:
    """Return an image's pixel values (3, S, S) and properties, or why there are none."""
    try:
        image = open_image(source, min_side=max(2 * side, MEASURED), name=name)
    except ImageError as error:
        return Unreadable(name, str(error))
    return pixels(image, processor), properties(image)
