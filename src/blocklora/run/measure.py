"""Measure a classifier on labelled images: encode them once, adapted and as the base model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import NOTHING_KEPT, Classifier, FeatureStore, encode
from blocklora.core.device import Compute
from blocklora.core.errors import DataError, ImageError
from blocklora.core.words import count
from blocklora.data import Example
from blocklora.metrics import Answers, Evaluation, judge
from blocklora.report import (
    ConfusedPair,
    Mistake,
    RunMetrics,
    confused_cells,
    confused_pairs,
    write_predictions,
)
from blocklora.run.confidence import measure_confidence
from blocklora.run.explain import reasons_for_files

__all__ = ["EncodeProgress", "Measurable", "Measured", "measure"]

_MISTAKES, _TOP = 24, 3
_PAIRS, _OF_A_PAIR = 5, 3


class Measurable(Protocol):
    """A classifier, and where it predicts."""

    @property
    def classifier(self) -> Classifier:
        """The classifier."""
        ...

    @property
    def compute(self) -> Compute:
        """Where it is."""
        ...

    @property
    def images_at_once(self) -> int:
        """How many images are encoded at a time."""
        ...


class EncodeProgress(Protocol):
    """A progress callback."""

    def encoded(self, done: int, total: int) -> None:
        """Images have been encoded."""
        ...


@dataclass(frozen=True)
class Measured:
    """What was measured, and on what.

    Attributes:
        metrics: All metrics.
        images: The images that could be read (M,).
        base_features: The base model's unit features of them (M, D).
    """

    metrics: RunMetrics
    images: Sequence[Example]
    base_features: Tensor


def measure(
    what: Measurable,
    name: str,
    test: Sequence[Example],
    progress: EncodeProgress | None = None,
    store: FeatureStore = NOTHING_KEPT,
    predictions: Path | None = None,
) -> Measured:
    """Compute all metrics of a classifier.

    Args:
        what: The classifier.
        name: What errors call the data.
        test: Labelled images; labels are indices of the classifier's classes.
        progress: The progress callback.
        store: Where features of the frozen model are kept.
        predictions: A CSV file to write, one row an image.

    Raises:
        DataError: None of the images can be read.
    """
    total = len(test)
    encoded = encode(
        what.classifier,
        [(example.image, example.source) for example in test],
        what.compute,
        batch_size=what.images_at_once,
        store=store,
        zero_shot=True,
        on_batch=(lambda done: progress.encoded(done, total)) if progress else None,
    )
    if not encoded.kept:
        raise DataError(f"{name}: none of the {count(total, 'test image')} can be read.")
    kept = [test[index] for index in encoded.kept]
    labels = np.array([example.label for example in kept])
    said, zero_shot = _answers(what, encoded.features, labels)
    names = list(what.classifier.class_names)
    if predictions and what.compute.ranks.first:
        images = [example.image for example in kept]
        write_predictions(predictions, images, labels.tolist(), said, names, zero_shot.tolist())
    evaluation = judge(said, labels, names, zero_shot)
    metrics = RunMetrics(
        evaluation=evaluation,
        temperature=what.classifier.temperature,
        confidence=measure_confidence(what.classifier, encoded.features, said, labels),
        mistakes=_explained(what, kept, encoded.features, _mistakes(kept, labels, said, names)),
        confused=_confused(evaluation, kept, labels, said),
        unreadable=tuple(encoded.unreadable),
    )
    return Measured(metrics, kept, encoded.features[:, 1])


def _answers(
    what: Measurable, features: Tensor, labels: NDArray[np.int64]
) -> tuple[Answers, NDArray[np.int64]]:
    """Return the answers to images, and those of zero-shot; several ranks share them, and each gets all.

    Args:
        what: The classifier.
        features: Adapted, and the base model's (M, 2, D).
        labels: Their true classes (M,).
    """
    classifier, ranks = what.classifier, what.compute.ranks
    first, last = ranks.share(len(labels)) if len(labels) >= ranks.count else (0, len(labels))
    said = classifier.answers(features[first:last], labels[first:last], _TOP)
    zero_shot = classifier.zero_shot_labels(features[first:last, 1])
    if last - first == len(labels):
        return said, zero_shot
    parts = [
        ranks.gather(torch.from_numpy(part)).numpy()
        for part in (said.top, said.shares, said.of_truth, said.squares, zero_shot)
    ]
    return Answers(*parts[:4]), parts[4]


def _confused(
    evaluation: Evaluation,
    examples: Sequence[Example],
    labels: NDArray[Any],
    said: Answers,
) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes that were confused most often, each with its most confident mistakes."""
    pairs = []
    cells = zip(confused_pairs(evaluation), confused_cells(evaluation), strict=True)
    for pair, (label, other, _) in islice(cells, _PAIRS):
        places = np.flatnonzero((labels == label) & (said.predicted == other))
        worst = places[np.argsort(-said.confidence[places], kind="stable")][:_OF_A_PAIR].tolist()
        pairs.append(replace(pair, mistaken=tuple(examples[place].image for place in worst)))
    return tuple(pairs)


def _explained(
    what: Measurable, examples: Sequence[Example], features: Tensor, mistakes: Sequence[Mistake]
) -> tuple[Mistake, ...]:
    """Add the nearest training images and heat maps, where the classifier keeps its training images."""
    if what.classifier.evidence.training is None:
        return tuple(mistakes)
    places = {example.image: place for place, example in enumerate(examples)}
    rows = [places[mistake.image] for mistake in mistakes]
    try:
        sources, names = [examples[row].source for row in rows], what.classifier.class_names
        why = reasons_for_files(what.classifier, features[rows], sources, what.compute, names=names)
    except ImageError:  # it went away meanwhile
        return tuple(mistakes)
    return tuple(
        replace(mistake, nearest=one.nearest, heat=one.heat or ())
        for mistake, one in zip(mistakes, why, strict=True)
    )


def _mistakes(
    examples: Sequence[Example],
    labels: NDArray[Any],
    said: Answers,
    names: Sequence[str],
) -> tuple[Mistake, ...]:
    """Return the wrongly classified images, most confident first."""
    wrong = np.flatnonzero(said.predicted != labels)
    worst = wrong[np.argsort(-said.confidence[wrong], kind="stable")][:_MISTAKES]
    return tuple(
        Mistake(
            image=examples[place].image,
            label=names[labels[place]],
            predicted=names[said.predicted[place]],
            top=tuple(
                (names[label], share)
                for label, share in zip(said.top[place].tolist(), said.shares[place].tolist(), strict=True)
            ),
        )
        for place in worst.tolist()
    )
