"""What of a data set is on disk, what is missing, and what it should look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError
from blocklora.data.literature.benchmarks import Benchmark, missing, read_benchmark
from blocklora.data.types import Dataset, Example

__all__ = ["Inventory", "expected_tree", "inventory"]

_PLACES = {
    "imagenet": ("images/train/n01440764/*.JPEG", "images/val/n01440764/*.JPEG", "classnames.txt (optional)"),
    "imagenetv2": ("imagenetv2-matched-frequency-format-val/0/*.jpeg", "classnames.txt (optional)"),
    "imagenet_sketch": ("images/n01440764/*.JPEG", "classnames.txt (optional)"),
    "imagenet_a": ("imagenet-a/n01498041/*.jpg", "classnames.txt (optional)"),
    "imagenet_r": ("imagenet-r/n01443537/*.jpg", "classnames.txt (optional)"),
    "stanford_cars": ("cars_train/*.jpg", "cars_test/*.jpg"),
}


def expected_tree(row: Benchmark) -> list[str]:
    """Return the files and folders that a data set consists of, one line each, for people to read."""
    lines = [f"{' or '.join(row.folders)}/"]
    lines += [f"    {place}" for place in _PLACES.get(row.name, (f"{row.images[0]}/",))]
    if row.split:
        lines.append(f"    {row.split}")
    if row.originals:
        lines.append(f"    {'or ' if row.split else ''}{', '.join(row.originals)}")
    elif row.rebuild:
        lines.append("    or no such file: then the split is made from the class folders")
    return lines


@dataclass(frozen=True)
class Inventory:
    """What of a data set is on disk.

    Attributes:
        name: Of the data set.
        title: As publications write it.
        page: Where it comes from.
        prompt: Its own.
        expected: The files and folders that it consists of, a line each.
        folder: Where it is; None where it is not there.
        there: Files and folders that are there.
        missing: Those that are not.
        images: How many each part has.
        missing_images: Files that are named but not there.
        notes: What was decided while it was read.
        n_classes: How many were found.
        problem: Why it cannot be read, or None.
        complete: Whether nothing is missing.
    """

    name: str
    title: str
    page: str
    prompt: str
    expected: tuple[str, ...]
    folder: str | None
    there: tuple[str, ...]
    missing: tuple[str, ...]
    images: Mapping[str, int]
    missing_images: tuple[str, ...]
    notes: tuple[str, ...]
    n_classes: int
    problem: str | None
    complete: bool

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts as a JSON object."""
        return asdict(self)


def inventory(row: Benchmark, root: Path) -> Inventory:
    """Look at a data set below a root folder.

    Args:
        row: Which one.
        root: The folder that holds the folders of the data sets.
    """
    folder = row.folder(root)
    there, gone = _files(row, folder)
    dataset, problem = None, None
    try:
        dataset = read_benchmark(row, root)
    except DataError as error:
        problem = str(error)
    parts = _parts(dataset)
    absent = tuple(missing(example for examples in parts.values() for example in examples))
    n_classes = len(dataset.class_names) if dataset else 0
    return Inventory(
        name=row.name,
        title=row.title,
        page=row.page,
        prompt=row.prompt,
        expected=tuple(expected_tree(row)),
        folder=None if folder is None else str(folder),
        there=there,
        missing=gone,
        images={part: len(examples) for part, examples in parts.items()},
        missing_images=absent,
        notes=tuple(dataset.notes) if dataset else (),
        n_classes=n_classes,
        problem=problem,
        complete=dataset is not None and not absent and n_classes == row.n_classes,
    )


def _files(row: Benchmark, folder: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which of a data set's files and folders are there, and which are not."""
    places = [name for name in (row.images[0], row.split, *row.originals) if name]
    there = [name for name in places if folder is not None and _is_there(row, folder, name)]
    return tuple(there), tuple(name for name in places if name not in there)


def _is_there(row: Benchmark, folder: Path, name: str) -> bool:
    return row.image_folder(folder).is_dir() if name == row.images[0] else (folder / name).exists()


def _parts(dataset: Dataset | None) -> Mapping[str, Sequence[Example]]:
    return {"train": dataset.train, "val": dataset.val, "test": dataset.test} if dataset else {}
