"""Classify images with a finished run, a batch at a time, so that answers come while others are computed.

Axes: B = images of one batch, M = those of it that can be read, N = classes, D = the width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import Encoded, encode_batches
from blocklora.core.words import printable
from blocklora.data import Source, Unreadable
from blocklora.run.load import LoadedRun

__all__ = ["Portion", "Prediction", "predict_images", "predict_portions"]


@dataclass(frozen=True)
class Prediction:
    """What one image is.

    Attributes:
        image: Its name.
        top: Labels with their probabilities, the most probable first.
    """

    image: str
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Portion:
    """What was found of the images of one batch.

    Attributes:
        answers: One an image (B,), in the order in which they came.
        encoded: Unit features (M, D) of those that can be read.
    """

    answers: list[Prediction | Unreadable]
    encoded: Encoded


def predict_images(
    run: LoadedRun,
    files: Iterable[Path],
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
        An answer for each, in the order of ``files``.
    """
    done = 0
    for portion in predict_portions(run, ((printable(str(file)), file) for file in files), top_k=top_k):
        done += len(portion.answers)
        if on_batch:
            on_batch(done)
        yield from portion.answers


def predict_portions(
    run: LoadedRun, images: Iterable[tuple[str, Source | Unreadable]], *, top_k: int = 5
) -> Iterator[Portion]:
    """Classify images, and give their features as well.

    Args:
        run: What ``load_run`` gave.
        images: Names and sources, or why there is none; asked for about two batches ahead.
        top_k: How many classes to name for each image; no more than there are.
    """

    def forward(pixel_values: Tensor) -> Tensor:
        with run.compute.autocast():
            return run.classifier.image_features(pixel_values)

    names: list[str] = []

    def named() -> Iterator[tuple[str, Source | Unreadable]]:
        for name, source in images:
            names.append(name)
            yield name, source

    labels = [str(label) for label in run.labels]
    for encoded in encode_batches(
        named(),
        forward,
        run.classifier.base.processor,
        device=run.compute.device,
        batch_size=run.images_at_once,
    ):
        probabilities = run.classifier.probabilities(encoded.features)  # (M, N)
        good = dict(zip(encoded.kept, probabilities, strict=True))
        bad = iter(encoded.unreadable)
        answers = [
            _prediction(names[place], good[place], labels, top_k) if place in good else next(bad)
            for place in range(encoded.n_images)
        ]
        del names[: encoded.n_images]
        yield Portion(answers, encoded)


def _prediction(name: str, row: NDArray[np.float64], labels: list[str], top_k: int) -> Prediction:
    """Return what an image is, of its probabilities (N,)."""
    best = np.argsort(-row, kind="stable")[:top_k].tolist()
    return Prediction(name, [(labels[place], float(row[place])) for place in best])
