"""Classify files with a finished run, batch by batch, so that answers come while others are computed.

Axes: B = images of a batch, M = readable images of it, N = classes, k = classes named for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import (
    Classifier,
    Encoded,
    chance_known,
    class_sets,
    encode_batches,
    why_no_heat_map,
)
from blocklora.core.words import printable
from blocklora.data import Source, Unreadable
from blocklora.metrics import top_classes
from blocklora.run.confidence import alarm_note, measured_note, promise_of
from blocklora.run.explain import Reasons, reasons_for_files
from blocklora.run.load import LoadedRun

__all__ = ["Asked", "Portion", "Prediction", "answers", "notes_on", "predict_images", "predict_portions"]


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

    def settings(self) -> Mapping[str, Any]:
        """Return what decides the answers, ready for JSON."""
        return {
            "top_k": self.top_k,
            "coverage": self.coverage,
            "by_class": self.by_class,
            "false_alarms": self.false_alarms,
        }


@dataclass(frozen=True)
class Portion:
    """What was found of the images of one batch.

    Attributes:
        answers: One an image (B,), in the order in which they came.
        encoded: Features of those that can be read, as ``Classifier.logits`` takes them.
    """

    answers: list[Prediction | Unreadable]
    encoded: Encoded


def notes_on(folder: Path, classifier: Classifier, asked: Asked) -> list[str]:
    """Say what the answers are worth that are asked for.

    Args:
        folder: Of the run.
        classifier: What answers.
        asked: What is asked for.

    Raises:
        ConfigError: A share is out of range.
        RunError: The classifier keeps no answers to held-out images.
    """
    notes = []
    if asked.coverage is not None:
        notes += [promise_of(classifier, asked.coverage), measured_note(folder)]
    if asked.false_alarms is not None:
        notes.append(alarm_note(classifier, asked.false_alarms))
    if asked.explain and (why := why_no_heat_map(classifier)):
        notes.append(f"There are no heat maps: {why}.")
    return [note for note in notes if note]


def predict_images(
    run: LoadedRun,
    files: Iterable[Path],
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
        An answer for each, in the order of ``files``.

    Raises:
        ConfigError: The coverage is out of range.
        RunError: The run does not keep what is asked for.
    """
    done = 0
    for portion in predict_portions(run, ((printable(str(file)), file) for file in files), asked):
        done += len(portion.answers)
        if on_batch:
            on_batch(done)
        yield from portion.answers


def predict_portions(
    run: LoadedRun, images: Iterable[tuple[str, Source | Unreadable]], asked: Asked = Asked()
) -> Iterator[Portion]:
    """Classify images, and give their features as well.

    Args:
        run: What ``load_run`` gave.
        images: Names and sources, or why there is none; asked for about two batches ahead.
        asked: What is asked for of each.

    Raises:
        ConfigError: The coverage is out of range.
        RunError: The run does not keep what is asked for.
    """

    def forward(pixel_values: Tensor) -> Tensor:
        with run.compute.autocast():
            return run.classifier.image_features(pixel_values)

    ahead: list[tuple[str, Source | Unreadable]] = []

    def remembered() -> Iterator[tuple[str, Source | Unreadable]]:
        for image in images:
            ahead.append(image)
            yield image

    for encoded in encode_batches(
        remembered(),
        forward,
        run.classifier.base.processor,
        device=run.compute.device,
        batch_size=run.images_at_once,
    ):
        batch, ahead[: encoded.n_images] = ahead[: encoded.n_images], []
        readable = [(name, source) for name, source in map(batch.__getitem__, encoded.kept)]
        good = iter(answers(run, readable, encoded.features, asked))  # type: ignore[arg-type]  # it was readable
        bad, kept = iter(encoded.unreadable), set(encoded.kept)
        yield Portion([next(good) if place in kept else next(bad) for place in range(len(batch))], encoded)


def answers(
    run: LoadedRun, images: Sequence[tuple[str, Source]], features: Tensor, asked: Asked
) -> Iterator[Prediction]:
    """Say what readable images are.

    Args:
        run: What ``load_run`` gave.
        images: Names and sources (M).
        features: Their features, as ``Classifier.logits`` takes them.
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
        sources = [source for _, source in images]
        why = reasons_for_files(classifier, features, sources, run.compute, names=labels)
    probabilities = classifier.probabilities(features)
    best, shares = top_classes(probabilities, asked.top_k)  # (M, k)
    for row, (name, _) in enumerate(images):
        places = zip(best[row].tolist(), shares[row].tolist(), strict=True)
        yield Prediction(
            image=name,
            top=[(labels[place], share) for place, share in places],
            set=None if sets is None else _members(sets[row], probabilities[row], labels),
            chance_known=None if known is None else known[row],
            unknown=known is not None and known[row] <= (asked.false_alarms or 0.0),
            reasons=None if why is None else why[row],
        )


def _members(chosen: NDArray[np.bool_], shares: NDArray[np.float64], labels: Sequence[str]) -> list[str]:
    """Return the labels of a set of classes (N,), the most probable first."""
    members = np.flatnonzero(chosen)
    return [labels[place] for place in members[np.argsort(-shares[members], kind="stable")].tolist()]
