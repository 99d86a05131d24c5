"""Classify files with a finished run, a few hundred at a time, so that answers come while others are computed.

Axes: M = images of one portion, N = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from blocklora.classifier import chance_known, class_sets, encode
from blocklora.core.words import printable
from blocklora.data import Source, Unreadable
from blocklora.run.explain import Reasons, reasons
from blocklora.run.load import LoadedRun

__all__ = ["Asked", "Prediction", "answers", "predict_images"]

_FIRST, _MOST = 64, 512  # images of the first portion, which should come soon, and of the largest


@dataclass(frozen=True)
class Prediction:
    """What one image is.

    Attributes:
        image: Its name.
        top: Labels with their probabilities, the most probable first.
        set: The labels that hold the true one as often as was asked for, the most probable first; None where nobody
            asked.
        chance_known: How usual the image would be among those of the classes, in (0, 1]; None where nobody asked.
        unknown: Whether it is to be called unknown.
        reasons: Why it got its answer; None where nobody asked.
    """

    image: str
    top: list[tuple[str, float]]
    set: list[str] | None = None
    chance_known: float | None = None
    unknown: bool = False
    reasons: Reasons | None = None


@dataclass(frozen=True)
class Asked:
    """What is asked for of each image.

    Attributes:
        top_k: How many classes to name; no more than there are.
        coverage: How often the true class should be in the image's set, in (0, 1); None makes no sets.
        by_class: Whether that is meant for every class that has enough held-out images.
        false_alarms: Images that look so unlike the classes that at most this share of known ones does are called
            unknown; None: none are.
        explain: Whether to say why.
    """

    top_k: int = 5
    coverage: float | None = None
    by_class: bool = False
    false_alarms: float | None = None
    explain: bool = False


def predict_images(
    run: LoadedRun,
    files: Sequence[Path],
    asked: Asked = Asked(),
    *,
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Prediction | Unreadable]:
    """Classify files; memory does not grow with their number.

    Args:
        run: What ``load_run`` gave.
        files: The images.
        asked: What is asked for of each.
        on_batch: Called with the number of images that are done.

    Yields:
        In the order of ``files`` within a portion, first the answers, then the images that cannot be read.

    Raises:
        ConfigError: The coverage is out of range.
        RunError: The run does not keep what is asked for.
    """
    for start, end in pairwise(_portions(len(files))):
        names = [printable(str(file)) for file in files[start:end]]
        encoded = encode(
            run.classifier,
            list(zip(names, files[start:end], strict=True)),
            run.compute,
            batch_size=run.images_at_once,
            on_batch=partial(_tell, on_batch, start),
        )
        images = [(names[index], files[start + index]) for index in encoded.kept]
        yield from answers(run, images, encoded.features, asked)
        yield from encoded.unreadable


def answers(
    run: LoadedRun, images: Sequence[tuple[str, Source]], features: Tensor, asked: Asked
) -> Iterator[Prediction]:
    """Say what readable images are.

    Args:
        run: What ``load_run`` gave.
        images: Names and sources (M).
        features: Their adapted features (M, D).
        asked: What is asked for of each.

    Raises:
        ConfigError: The coverage is out of range.
        RunError: The run does not keep what is asked for.
    """
    if not images:
        return
    classifier, labels = run.classifier, [str(label) for label in run.labels]
    sets = known = why = None
    if asked.coverage is not None:
        sets = class_sets(classifier, features, asked.coverage, by_class=asked.by_class)
    if asked.false_alarms is not None:
        known = chance_known(classifier, features).tolist()
    if asked.explain:
        why = reasons(classifier, [source for _, source in images], features, run.compute)
    for row, shares in enumerate(classifier.probabilities(features)):
        order = np.argsort(-shares, kind="stable").tolist()
        yield Prediction(
            image=images[row][0],
            top=[(labels[place], float(shares[place])) for place in order[: asked.top_k]],
            set=None if sets is None else [labels[place] for place in order if sets[row, place]],
            chance_known=None if known is None else known[row],
            unknown=known is not None and known[row] <= (asked.false_alarms or 0.0),
            reasons=None if why is None else why[row],
        )


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
