"""Labels that a person adds to a data set: the CSV file of ``fit --add``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.files import user_path
from blocklora.core.words import count, did_you_mean, name_some, printable
from blocklora.data.names import Finder
from blocklora.data.types import Dataset, Example, FewShotSplit

__all__ = ["with_added"]

_EXPECTED = "expected the columns 'image' (a path) and 'label', as 'blocklora suggest' writes them"


def with_added(dataset: Dataset, split: FewShotSplit, files: Sequence[str]) -> FewShotSplit:
    """Add labelled images to the training images of a run, beside its shots.

    Paths are absolute, or relative to the CSV file. Rows without a label are left; of several rows for one image with
    the same label the first counts. A label must be a class of the data: one that is none is far more often a typing
    error than a new class, which needs a folder of its own.

    Args:
        dataset: The whole task; its classes are those to choose from.
        split: The images of the run.
        files: CSV files with the columns image and label, and any others.

    Returns:
        The split, with the added images last in its training part, and a note.

    Raises:
        DataError: A file cannot be read, a label is no class, or an image is missing, has two labels, or is one of
            the run.
    """
    classes = {
        name: label
        for names in (dataset.found_names, dataset.class_names)
        for label, name in enumerate(names)
    }
    taken = {_place(one.source): part for part in ("train", "val", "test") for one in getattr(split, part)
             if part != "test" and isinstance(one.source, Path)}  # fmt: skip
    added: dict[str, Example] = {}
    empty = 0
    for file in map(user_path, files):
        for number, image, label in _rows(file):
            if not label:
                empty += 1
                continue
            if label not in classes:
                raise DataError(
                    f"{file}: row {number} has the label {label!r}, which is no class of {dataset.name}"
                    f"{did_you_mean(label, classes)} (classes: {name_some(dataset.class_names)}); for a new class "
                    "make a folder for it in the data"
                )
            path = Finder().find(file.parent, image)
            if path is None:
                raise DataError(f"{file}: row {number}: {image}: there is no such file: correct the path")
            place = _place(path)
            earlier = added.setdefault(
                place, Example(printable(Path(place).as_posix()), classes[label], path)
            )
            if earlier.label != classes[label]:
                raise DataError(f"{file}: row {number}: {image} has two labels: keep one")
            if place in taken:
                raise DataError(
                    f"{file}: row {number}: {image} is a {taken[place]} image already: remove the row"
                )
    notes = [
        f"{count(len(added), 'training image')} added from {name_some(Path(file).name for file in files)}"
    ]
    if empty:
        notes[0] += f"; {count(empty, 'row')} without a label left"
    return replace(split, train=(*split.train, *added.values()), notes=(*split.notes, *notes))


def _rows(file: Path) -> list[tuple[int, str, str]]:
    """Return the number, image and label of each row, as a spreadsheet counts rows."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8 ({error}): {_EXPECTED}") from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    if not {"image", "label"} <= set(header):
        raise DataError(f"{file}: found the columns {', '.join(map(repr, header)) or 'none'}: {_EXPECTED}")
    image, label = header.index("image"), header.index("label")
    return [
        (number, cells[image].strip(), cells[label].strip() if label < len(cells) else "")
        for number, cells in enumerate(lines[1:], start=2)
        if len(cells) > image and cells[image].strip()
    ]


def _place(path: object) -> str:
    """Return one name for a file, however it is written."""
    return os.path.normcase(os.path.realpath(str(path)))
