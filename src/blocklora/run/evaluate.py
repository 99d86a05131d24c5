"""Measure a finished run again: on its own test images, or on other labelled images that it has not learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

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

__all__ = ["ImagesToMeasure", "evaluate_run", "measure_again", "unseen"]


@dataclass(frozen=True)
class ImagesToMeasure:
    """What is measured, and what a reader must know of it.

    Attributes:
        name: What messages call it.
        images: Labelled images; labels are indices of the classifier's classes.
        notes: A sentence each.
    """

    name: str
    images: Sequence[Example]
    notes: tuple[str, ...] = ()


def evaluate_run(
    run: Path,
    data: str | None = None,
    *,
    root: str | None = None,
    device: str = "auto",
    model: str | None = None,
    progress: EncodeProgress | None = None,
) -> RunMetrics:
    """Measure a finished run again; nothing is written.

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
    if data is None:
        chosen = _own_images(run)
    else:
        found = read_labelled(DataChoice(data, root))
        chosen = unseen(run, ImagesToMeasure(found.name, _relabel(found, loaded), found.notes))
    return replace(measure_again(loaded, chosen, progress), run=str(run))


def measure_again(loaded: LoadedRun, test: ImagesToMeasure, progress: EncodeProgress | None) -> RunMetrics:
    """Measure a loaded classifier, and say what is known of it."""
    return replace(
        measure(loaded, test.name, test.images, progress).metrics,
        method=loaded.classifier.method,
        model=loaded.classifier.base.model_id,
        dataset=test.name,
        device=str(loaded.compute.device),
        precision=loaded.compute.precision,
        notes=(*test.notes, *loaded.notes),
    )


def unseen(run: Path, test: ImagesToMeasure) -> ImagesToMeasure:
    """Leave out the images that a run was trained or validated on, by content, and say so.

    Raises:
        DataError: Nothing is left.
    """
    record, own = read_json(run / SPLIT), data_choice(read_json(run / CONFIG))
    seen = seen_images(record, test.images, own)
    left = [example for place, example in enumerate(test.images) if place not in seen]
    n = len(test.images)
    if not left:
        raise DataError(
            f"{test.name}: the run was trained or validated on all of its {count(n, 'image')}, so nothing is left to "
            "measure: name images that it has not seen."
        )
    notes = _unknown_notes(record, own)
    if seen:
        were = "was" if len(seen) == 1 else "were"
        notes.append(
            f"{count(len(seen), 'image')} of {n} {were} left out, because the run was trained or validated on the same "
            f"content: {name_some(test.images[place].image for place in seen)}"
        )
    return replace(test, images=left, notes=(*test.notes, *notes))


def _own_images(run: Path) -> ImagesToMeasure:
    """Return the run's own test images, by path and content."""
    record, own = read_json(run / SPLIT), data_choice(read_json(run / CONFIG))
    part = read_split_part(record, "test", own)
    if part.problems:
        total = len(part.images) + len(part.problems)
        raise DataError(
            f"{own.data}: {count(len(part.problems), 'image')} of the run's {total} test images cannot be used: "
            f"{part.problems[0].reason}; or name other labelled images with --data."
        )
    seen = seen_images(record, part.images, own)
    leak = leak_note([(name, part.images[place].image) for place, name in seen.items()])
    notes = (*part.notes, *_unknown_notes(record, own), *([leak] if leak else []))
    return ImagesToMeasure(Path(own.data).name, part.images, notes)


def _unknown_notes(record: Mapping[str, Any], own: DataChoice) -> list[str]:
    """Say that training images are gone whose content an old record does not hold, so that nobody can know them."""
    old = [part for part in ("train", "val") if any("sha256" not in item for item in record.get(part, ()))]
    gone = sum(len(read_split_part(record, part, own).problems) for part in old)
    if not gone:
        return []
    return [
        f"of the images that the run was trained or validated on, {count(gone, 'image')} cannot be found, and their "
        "content was not recorded: some of the images measured may be the same"
    ]


def _relabel(found: LabelledImages, loaded: LoadedRun) -> tuple[Example, ...]:
    """Give images the labels of a classifier, by the names of their classes: its own words, or those of its data."""
    own = loaded.classifier.class_names
    if found.class_names == own:  # also where a name stands twice, as in ImageNet
        return found.images
    known: dict[str, set[int]] = {}
    for names in (own, tuple(map(str, loaded.labels)), loaded.found_names):
        for label, name in enumerate(names):
            known.setdefault(normalize("NFC", name), set()).add(label)
    present = {e.label: normalize("NFC", found.class_names[e.label]) for e in found.images}
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
