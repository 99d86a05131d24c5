"""Which images of a folder to label next, for a finished run.

Axes: M = unlabelled images that are candidates, D = the width of a feature, N = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blocklora.classifier import encode
from blocklora.core.errors import ConfigError, DataError
from blocklora.core.files import user_path
from blocklora.core.words import count, printable
from blocklora.data import content_digests
from blocklora.explore.choosing import FEW, choose_images, doubt
from blocklora.findings.duplicates import exact_groups, near_groups
from blocklora.findings.looking import Looked, look_at
from blocklora.findings.neighbours import nearest
from blocklora.findings.quality import blank
from blocklora.run.find import find_images
from blocklora.run.folder import SPLIT, part_images, read_json
from blocklora.run.load import LoadedRun, load_run

__all__ = ["Suggested", "Suggestion", "suggest_images"]

_NEIGHBOURS = 10


@dataclass(frozen=True)
class Suggestion:
    """One image to label.

    Attributes:
        path: Where it is, absolute.
        score: What labelling it adds, 1 for the first suggestion.
        why: In a few words.
        guess: The class that the run takes it for.
        probability: Of that class.
    """

    path: Path
    score: float
    why: str
    guess: str
    probability: float


@dataclass(frozen=True)
class Suggested:
    """Images to label, the most useful first.

    Attributes:
        images: Those suggested.
        classes: The run's classes, in label order.
        notes: What was left out, a sentence each.
    """

    images: tuple[Suggestion, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def suggest_images(
    run: Path,
    folders: Sequence[Path],
    n: int = 50,
    *,
    device: str = "auto",
    model: str | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Suggested:
    """Suggest unlabelled images to label next: typical of many others, and unlike those that are labelled.

    From about four labels a class on, doubtful ones count for more. Left out are images that the run has, blank ones,
    and all but one of nearly the same image.

    Args:
        run: A RUN folder.
        folders: Where the unlabelled images are: folders or files.
        n: How many, 1 or more.
        device: Where to compute.
        model: Where the base model is now, if it has moved.
        on_batch: Called with the number of images that were looked at, and how many there are.

    Raises:
        ConfigError: ``n`` is below 1.
        RunError: The folder is not a finished run.
        DataError: There is no image, or none is left to label.
    """
    if n < 1:
        raise ConfigError(f"n is {n}: expected 1 or more images.")
    loaded = load_run(run, device=device, model=model)
    record = read_json(user_path(run) / SPLIT)
    files = [Path(path).absolute() for path in find_images(folders).files]
    labelled = part_images(user_path(run), "train")
    named = [
        *((one.image, one.source) for one in labelled),
        *((printable(str(file)), file) for file in files),
    ]
    looked = look_at(
        named,
        loaded.classifier.base,
        loaded.compute,
        (lambda done: on_batch(done, len(named))) if on_batch else None,
    )
    known = looked.kept < len(labelled)  # rows of the labelled images
    candidates, notes = _candidates(record, looked, known, [named[place] for place in looked.kept])
    if not len(candidates):
        raise DataError(f"{folders[0]}: no image is left to label: {'; '.join(notes)}")
    paths = [files[place - len(labelled)] for place in looked.kept[candidates]]
    images = _chosen(loaded, paths, looked.features[candidates], looked.features[known], n)
    if looked.unreadable:
        first = looked.unreadable[0].reason
        notes.append(f"{count(len(looked.unreadable), 'image')} cannot be read, e.g. {first}")
    return Suggested(images, tuple(map(str, loaded.labels)), tuple(notes))


def _chosen(
    loaded: LoadedRun,
    paths: Sequence[Path],
    features: NDArray[np.float32],
    labelled: NDArray[np.float32],
    n: int,
) -> tuple[Suggestion, ...]:
    """Choose n of the candidates (M,) with features (M, D), beside those of the labelled images."""
    probabilities = _probabilities(loaded, features, paths)
    uncertainty = np.ones(len(paths)) if len(labelled) < FEW * len(loaded.labels) else doubt(probabilities)
    chosen, added = choose_images(features, labelled, uncertainty, n)
    most, usual = max(float(added[0]), 1e-12), float(np.median(uncertainty))
    return tuple(
        Suggestion(
            paths[place],
            float(gain) / most,
            "in doubt, and like others" if uncertainty[place] > usual else "like many that have no label",
            str(loaded.labels[int(probabilities[place].argmax())]),
            float(probabilities[place].max()),
        )
        for place, gain in zip(chosen, added, strict=True)
    )


def _candidates(
    record: dict[str, Any], looked: Looked, known: NDArray[np.bool_], named: Sequence[tuple[str, Any]]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows that may be suggested, and say why others are not."""
    contents = content_digests(named)
    seen = {
        item["sha256"]
        for part in ("train", "val", "test")
        for item in record.get(part, ())
        if "sha256" in item
    }
    ours = np.array([not flag and digest in seen for flag, digest in zip(known, contents, strict=True)])
    empty = np.array([blank(one) > 0 for one in looked.properties]) & ~known
    twice = _copies(looked, contents, known | ours, empty) & ~ours
    notes = [
        f"{count(int(flags.sum()), 'image')} left out: {why}"
        for flags, why in (
            (ours, "the run has them"),
            (empty & ~ours & ~twice, "one colour all over"),
            (twice, "nearly the same as a labelled image or another candidate"),
        )
        if flags.any()
    ]
    return np.flatnonzero(~known & ~ours & ~empty & ~twice), notes


def _copies(
    looked: Looked, contents: Sequence[str], known: NDArray[np.bool_], empty: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which rows are copies, exact or near, of an image that the run has, or of an earlier row."""
    groups = exact_groups(contents, [one.digest for one in looked.properties])
    groups += near_groups(looked.properties, nearest(looked.features, _NEIGHBOURS), empty)
    copies = np.zeros(len(known), bool)
    for group in groups:
        kept = next((place for place in group.places if known[place]), group.places[0])
        copies[[place for place in group.places if place != kept and not known[place]]] = True
    return copies


def _probabilities(
    loaded: LoadedRun, features: NDArray[np.float32], paths: Sequence[Path]
) -> NDArray[np.float64]:
    """Return what the run says of the candidates (M, N); one whose features are adapted encodes them anew."""
    if loaded.classifier.is_base:
        return loaded.classifier.probabilities(torch.from_numpy(features))
    images = [(printable(str(path)), path) for path in paths]
    found = encode(loaded.classifier, images, loaded.compute, batch_size=loaded.images_at_once)
    probabilities = np.full((len(paths), len(loaded.labels)), 1 / len(loaded.labels))
    probabilities[found.kept] = loaded.classifier.probabilities(found.features)
    return probabilities
