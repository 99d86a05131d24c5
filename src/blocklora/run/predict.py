"""Classify files with a finished run, a few hundred at a time, so that answers come while others are computed.

Axes: M = images of one portion, k = classes named for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from blocklora.classifier import encode
from blocklora.core.words import printable
from blocklora.data import Unreadable
from blocklora.run.load import LoadedRun

__all__ = ["Prediction", "predict_images"]

_FIRST, _MOST = 64, 512  # images of the first portion, which should come soon, and of the largest


@dataclass(frozen=True)
class Prediction:
    """What one image is.

    Attributes:
        image: Its name.
        top: Labels with their probabilities, the most probable first.
    """

    image: str
    top: list[tuple[str, float]]


def predict_images(
    run: LoadedRun,
    files: Sequence[Path],
    *,
    top_k: int = 5,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Prediction | Unreadable]:
    """Classify files; memory does not grow with their number.

    Args:
        run: What ``load_run`` gave.
        files: The images.
        top_k: How many classes to name for each image; no more than there are.
        on_batch: Called with the number of images that are done.

    Yields:
        In the order of ``files`` within a portion, first the answers, then the images that cannot be read.
    """
    labels = [str(label) for label in run.labels]
    for start, end in pairwise(_portions(len(files))):
        names = [printable(str(file)) for file in files[start:end]]
        encoded = encode(
            run.classifier,
            list(zip(names, files[start:end], strict=True)),
            run.compute,
            batch_size=run.images_at_once,
            on_batch=partial(_tell, on_batch, start),
        )
        if encoded.kept:
            best, shares = run.classifier.top(encoded.features, top_k)  # (M, k)
            for index, places, row in zip(encoded.kept, best.tolist(), shares.tolist(), strict=True):
                yield Prediction(
                    names[index], [(labels[p], share) for p, share in zip(places, row, strict=True)]
                )
        yield from encoded.unreadable


def _tell(on_batch: Callable[[int], None] | None, start: int, done: int) -> None:
    """Say how many images are done, those of earlier portions included."""
    if on_batch:
        on_batch(start + done)


def _portions(n: int) -> list[int]:
    """Return where the portions of n images start, and n: small ones first, then ever larger ones."""
    starts, size = [0], _FIRST
    while starts[-1] < n:
        starts.append(min(n, starts[-1] + size))
        size = min(_MOST, 2 * size)
    return starts
