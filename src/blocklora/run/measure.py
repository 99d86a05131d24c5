"""Measure a classifier on labelled images: encode them once, adapted and as the base model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import NOTHING_KEPT, Classifier, FeatureStore, encode
from blocklora.core.device import Compute
from blocklora.core.errors import DataError, ImageError
from blocklora.core.words import count
from blocklora.data import Example
from blocklora.metrics import Evaluation, evaluate
from blocklora.report import (
    ConfusedPair,
    Mistake,
    RunMetrics,
    confused_cells,
    confused_pairs,
    write_predictions,
)
from blocklora.run.confidence import measure_confidence
from blocklora.run.explain import reasons

__all__ = ["EncodeProgress", "Measurable", "measure"]

_MISTAKES = 24
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


def measure(
    what: Measurable,
    name: str,
    test: Sequence[Example],
    progress: EncodeProgress | None = None,
    store: FeatureStore = NOTHING_KEPT,
    predictions: Path | None = None,
) -> RunMetrics:
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
    probabilities = what.classifier.probabilities(encoded.features)
    zero_shot = what.classifier.zero_shot_labels(encoded.features[:, 1])
    names = list(what.classifier.class_names)
    if predictions:
        images = [example.image for example in kept]
        write_predictions(predictions, images, labels.tolist(), probabilities, names, zero_shot.tolist())
    evaluation = evaluate(probabilities, labels, names, zero_shot)
    return RunMetrics(
        evaluation=evaluation,
        temperature=what.classifier.temperature,
        confidence=measure_confidence(what.classifier, encoded.features, labels),
        mistakes=_explained(what, kept, encoded.features, _mistakes(kept, labels, probabilities, names)),
        confused=_confused(evaluation, kept, labels, probabilities),
        unreadable=tuple(encoded.unreadable),
    )


def _confused(
    evaluation: Evaluation,
    examples: Sequence[Example],
    labels: NDArray[Any],
    probabilities: NDArray[np.float64],
) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes that were confused most often, each with its most confident mistakes."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    pairs = []
    cells = zip(confused_pairs(evaluation), confused_cells(evaluation), strict=True)
    for pair, (label, other, _) in islice(cells, _PAIRS):
        places = np.flatnonzero((labels == label) & (predicted == other))
        worst = places[np.argsort(-confidence[places], kind="stable")][:_OF_A_PAIR].tolist()
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
        why = reasons(what.classifier, [examples[row].source for row in rows], features[rows], what.compute)
    except ImageError:  # it went away meanwhile
        return tuple(mistakes)
    return tuple(
        replace(mistake, nearest=one.nearest, heat=one.heat or ())
        for mistake, one in zip(mistakes, why, strict=True)
    )


def _mistakes(
    examples: Sequence[Example],
    labels: NDArray[Any],
    probabilities: NDArray[np.float64],
    names: Sequence[str],
) -> tuple[Mistake, ...]:
    """Return the wrongly classified images, most confident first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    return tuple(
        Mistake(
            image=examples[place].image,
            label=names[labels[place]],
            predicted=names[predicted[place]],
            top=tuple(
                (names[label], float(probabilities[place, label]))
                for label in np.argsort(-probabilities[place], kind="stable")[:3].tolist()
            ),
        )
        for place in worst.tolist()
    )
