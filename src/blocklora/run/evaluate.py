"""Measure a finished run again: on its own test images, or on other labelled images that it has not learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError
from blocklora.core.files import user_path
from blocklora.core.words import count, name_some
from blocklora.data import (
    DataChoice,
    Example,
    LabelledImages,
    read_labelled,
    read_split_part,
    seen_images,
)
from blocklora.report import RunMetrics, leak_note
from blocklora.run.folder import CONFIG, SPLIT, data_choice, read_json
from blocklora.run.load import LoadedRun, load_run
from blocklora.run.measure import EncodeProgress, measure

__all__ = ["evaluate_run"]


@dataclass(frozen=True)
class _Chosen:
    """What is measured: images with the run's labels, and what a reader must know of them."""

    name: str
    images: Sequence[Example]
    notes: tuple[str, ...]


def evaluate_run(
    run: Path,
    data: str | None = None,
    *,
    root: str | None = None,
    device: str = "auto",
    model: str | None = None,
    progress: EncodeProgress | None = None,
) -> RunMetrics:
    """Measure a finished run again.

    Args:
        run: A RUN folder.
        data: Labelled images of (some of) the same classes: their test part if they have one, else all of them. Images
            that the run trained or validated on, by content, are left out. None: the run's own test images.
        root: The folder that holds the folders of the data sets, where ``data`` is a name.
        device: Where to compute.
        model: Where the base model is now, if it has moved.
        progress: The progress callback.

    Raises:
        RunError: The folder is not a finished run.
        DataError: The data has a class that the run does not know, nothing is left to measure, or the run's own images
            are gone.
    """
    run = user_path(run)
    loaded = load_run(run, device=device, model=model)
    config, record = read_json(run / CONFIG), read_json(run / SPLIT)
    own = data_choice(config)
    chosen = (
        _own_images(record, own) if data is None else _others(record, own, DataChoice(data, root), loaded)
    )
    measured = measure(loaded, chosen.name, chosen.images, progress)
    return replace(
        measured,
        run=str(run),
        method=loaded.classifier.method,
        model=loaded.classifier.base.model_id,
        dataset=chosen.name,
        device=str(loaded.compute.device),
        precision=loaded.compute.precision,
        notes=chosen.notes,
    )


def _own_images(record: Mapping[str, Any], own: DataChoice) -> _Chosen:
    """Return the run's own test images, by path and content."""
    part = read_split_part(record, "test", own)
    if part.problems:
        total = len(part.images) + len(part.problems)
        raise DataError(
            f"{own.data}: {count(len(part.problems), 'image')} of the run's {total} test images cannot be used: "
            f"{part.problems[0].reason}; or name other labelled images with --data."
        )
    seen = seen_images(record, part.images, own)
    note = leak_note([(name, part.images[place].image) for place, name in seen.items()])
    return _Chosen(Path(own.data).name, part.images, (*part.notes, *([note] if note else [])))


def _others(record: Mapping[str, Any], own: DataChoice, choice: DataChoice, loaded: LoadedRun) -> _Chosen:
    """Return other labelled images with the run's labels, less those that the run has learned from."""
    found = read_labelled(choice)
    images = _relabel(found, loaded)
    seen = seen_images(record, images, own)
    left = [example for place, example in enumerate(images) if place not in seen]
    if not left:
        raise DataError(
            f"{found.name}: the run was trained or validated on all of its {count(len(images), 'image')}, so nothing "
            "is left to measure; name other images with --data, or leave it out for the run's own test images."
        )
    return _Chosen(found.name, left, (*found.notes, *_seen_notes(images, list(seen))))


def _seen_notes(images: Sequence[Example], places: Sequence[int]) -> tuple[str, ...]:
    """Say which images were left out since the run has learned from them."""
    if not places:
        return ()
    names = name_some(images[place].image for place in places)
    were = "was" if len(places) == 1 else "were"
    return (
        f"{count(len(places), 'image')} of {len(images)} {were} left out, because the run was trained or validated on "
        f"the same content: {names}",
    )


def _relabel(found: LabelledImages, loaded: LoadedRun) -> tuple[Example, ...]:
    """Give images the labels of a classifier, by the names of their classes: its own words, or those of its data."""
    own = loaded.classifier.class_names
    if found.class_names == own:  # also where a name stands twice, as in ImageNet
        return found.images
    known: dict[str, set[int]] = {}
    for names in (own, tuple(map(str, loaded.labels)), loaded.found_names):
        for label, name in enumerate(names):
            known.setdefault(name, set()).add(label)
    present = {example.label: found.class_names[example.label] for example in found.images}
    _check_known(found.name, present.values(), known)
    return tuple(
        replace(example, label=next(iter(known[present[example.label]]))) for example in found.images
    )


def _check_known(data: str, names: Iterable[str], known: Mapping[str, set[int]]) -> None:
    """Raise unless each name is that of exactly one class."""
    listed = list(names)
    if unknown := [name for name in listed if name not in known]:
        raise DataError(
            f"{data}: {name_some(unknown)} {'is' if len(unknown) == 1 else 'are'} no class that the run knows; it "
            f"knows {name_some(known)}."
        )
    for name in listed:
        if len(known[name]) > 1:
            raise DataError(
                f"{data}: '{name}' is the name of {len(known[name])} classes of the run, so its images have no one "
                "right answer; 'blocklora domain-generalization' tests among the set's own classes."
            )
