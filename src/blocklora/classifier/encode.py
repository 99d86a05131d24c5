"""From many images to their features, with unreadable ones set apart.

Axes: B = images of a batch, M = readable images, D = the width of a feature, S = the side of the model's square.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from blocklora.classifier.classifier import Classifier
from blocklora.classifier.store import NOTHING_KEPT, FeatureStore, frozen_facts
from blocklora.clip import crop_size, pixels
from blocklora.core.device import Compute, out_of_memory
from blocklora.core.errors import ImageError
from blocklora.core.threads import read_ahead
from blocklora.data import Source, Unreadable, open_for_model

__all__ = ["Encoded", "at_once", "encode", "encode_batches", "encode_images", "in_halves"]

_AT_ONCE = {"cuda": 256}
_AT_ONCE_ELSEWHERE = 64


@dataclass(frozen=True)
class Encoded:
    """Features of the images that could be read.

    Attributes:
        features: What was computed for each (M, ...), float32 on the CPU.
        kept: The index of each among the images given (M,).
        unreadable: The others, with the reason.
    """

    features: Tensor
    kept: list[int]
    unreadable: list[Unreadable]

    @property
    def n_images(self) -> int:
        """How many images were given."""
        return len(self.kept) + len(self.unreadable)


def at_once(device: torch.device) -> int:
    """Return how many images go through an image tower at a time where nothing else is asked for."""
    return _AT_ONCE.get(device.type, _AT_ONCE_ELSEWHERE)


def encode(
    classifier: Classifier,
    images: Sequence[tuple[str, Source]],
    compute: Compute,
    *,
    batch_size: int | None = None,
    store: FeatureStore = NOTHING_KEPT,
    zero_shot: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Compute unit image features; the base model's are shared through the store, and the images by all ranks.

    Args:
        classifier: The classifier, on ``compute.device``.
        images: Names, for messages, and sources.
        compute: Where to compute, and how precisely.
        batch_size: Images that go through the image tower at a time; None suits the device.
        store: Where features of the base model are kept.
        zero_shot: Whether the base model's features are wanted, too.
        on_batch: Called with the number of images that are done.

    Returns:
        Features (M, D), or with ``zero_shot``, or where the classifier reads both, (M, 2, D): adapted, and the base
        model's.
    """
    facts, both = None, zero_shot or classifier.reads_both
    if store.keeps and (both or classifier.is_base):
        facts = frozen_facts(images, classifier.base, compute, classifier.engine)
    known = store.recall(facts)  # (1, M, D)
    if known is not None and classifier.is_base:
        features = torch.stack([known[0], known[0]], dim=1) if zero_shot else known[0]
        if on_batch:
            on_batch(len(features))
        return Encoded(features, list(range(len(features))), [])

    def forward(pixel_values: Tensor) -> Tensor:
        with compute.autocast():
            adapted = classifier.adapted_image_features(pixel_values)
            if not both or known is not None:
                return adapted
            plain = adapted if classifier.is_base else classifier.zero_shot_image_features(pixel_values)
            return torch.stack([adapted, plain], dim=1)

    began = time.monotonic()
    found = _shared(images, forward, classifier.base.processor, compute, batch_size, on_batch)
    if known is not None:
        return replace(found, features=torch.stack([found.features, known[0, found.kept]], dim=1))
    if found.kept and not found.unreadable:
        plain = found.features[:, 1] if both else found.features
        store.keep(facts, plain[None], time.monotonic() - began)
    return found


def _shared(
    images: Sequence[tuple[str, Source]],
    forward: Callable[[Tensor], Tensor],
    processor: object,
    compute: Compute,
    batch_size: int | None,
    on_batch: Callable[[int], None] | None,
) -> Encoded:
    """Encode images, each rank its own, and give all to each; see ``encode_images``."""
    ranks, total = compute.ranks, len(images)
    first, last = ranks.share(total)
    tell = partial(_tell_of_all, on_batch, last - first, total) if on_batch else None
    own = encode_images(
        images[first:last], forward, processor, device=compute.device, batch_size=batch_size, on_batch=tell
    )
    if ranks.count == 1:
        return own
    told = ranks.collect(
        [[first + index for index in own.kept], [[bad.image, bad.reason] for bad in own.unreadable]]
    )
    return Encoded(
        ranks.gather(own.features),
        [index for kept, _ in told for index in kept],
        [Unreadable(*bad) for _, several in told for bad in several],
    )


def _tell_of_all(on_batch: Callable[[int], None], own: int, total: int, done: int) -> None:
    """Say how many images are done, the other ranks being about as far with theirs."""
    on_batch(total * done // own)


def encode_images(
    images: Sequence[tuple[str, Source]],
    forward: Callable[[Tensor], Tensor],
    processor: object,
    *,
    device: torch.device,
    batch_size: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Encode images as ``encode_batches`` does, and keep all features.

    Args:
        images: Names (for messages) and sources.
        forward: Takes pixel values (B, 3, S, S) on the device and returns (B, ...).
        processor: The checkpoint's image processor.
        device: Where ``forward`` computes.
        batch_size: B; None suits the device.
        on_batch: Called with the number of images that are done.
    """
    features, kept, unreadable, done = [], [], [], 0
    for part in encode_batches(images, forward, processor, device=device, batch_size=batch_size):
        if part.kept:
            features.append(part.features)
        kept += [done + place for place in part.kept]
        unreadable += part.unreadable
        done += part.n_images
        if on_batch:
            on_batch(done)
    return Encoded(torch.cat(features) if features else torch.empty(0, 0), kept, unreadable)


def encode_batches(
    images: Iterable[tuple[str, Source | Unreadable]],
    forward: Callable[[Tensor], Tensor],
    processor: object,
    *,
    device: torch.device,
    batch_size: int | None = None,
) -> Iterator[Encoded]:
    """Decode, preprocess and encode images; memory does not grow with their number.

    Threads decode the images of the next batch, one image each at a time, while a batch is encoded. A batch for which
    memory runs out is cut in half, and so on down to one image.

    Args:
        images: Names (for messages) and sources, or why there is none.
        forward: Takes pixel values (B, 3, S, S) on the device and returns (B, ...).
        processor: The checkpoint's image processor.
        device: Where ``forward`` computes.
        batch_size: B; None suits the device.

    Yields:
        What was found of each batch; ``kept`` counts from its first image.
    """
    size = batch_size or at_once(device)
    prepared = read_ahead(partial(_prepare, processor=processor), images, ahead=size + 1)
    with closing(prepared):
        while batch := list(islice(prepared, size)):
            kept = [place for place, value in enumerate(batch) if isinstance(value, Tensor)]
            unreadable = [value for value in batch if isinstance(value, Unreadable)]
            values = [value for value in batch if isinstance(value, Tensor)]
            del batch
            features = torch.empty(0, 0)
            if kept:
                pixel_values = torch.stack(values).to(device)
                values.clear()
                with torch.no_grad():
                    features = in_halves(forward, pixel_values)
            yield Encoded(features, kept, unreadable)


def in_halves(forward: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Tensor:
    """Run a batch, or its halves where memory runs out, and so on down to one image.

    Args:
        forward: Takes pixel values (B, 3, S, S) and returns (B, ...).
        pixel_values: (B, 3, S, S) on the device.

    Returns:
        (B, ...), float32 on the CPU.
    """
    try:
        return forward(pixel_values).float().cpu()
    except RuntimeError as error:
        if not out_of_memory(error) or len(pixel_values) == 1:
            raise
    if pixel_values.is_cuda:
        torch.cuda.empty_cache()
    halves = torch.chunk(pixel_values, 2)
    return torch.cat([in_halves(forward, half) for half in halves])


def _prepare(image: tuple[str, Source | Unreadable], *, processor: object) -> Tensor | Unreadable:
    """Return an image's pixel values (3, S, S), or why there are none."""
    name, source = image
    if isinstance(source, Unreadable):
        return source
    try:
        return pixels(open_for_model(source, crop_size(processor), name=name), processor)
    except ImageError as error:
        return Unreadable(name, str(error))
