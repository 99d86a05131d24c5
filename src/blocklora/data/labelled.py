"""Labelled images for a test: the one reader that never splits, and the parts of a finished run read back.

``read_labelled`` reads a data set to measure a classifier on. ``read_split_part`` finds the images that a run recorded
in its split.json, by path and content: nothing is drawn again, so that other images and class folders may come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError, ImageError
from blocklora.core.files import user_path
from blocklora.core.words import count, name_some
from blocklora.data.bundled import ASSETS, bundled_names
from blocklora.data.choose import DataChoice, renamed
from blocklora.data.hub import hub_folder
from blocklora.data.images import why_missing
from blocklora.data.literature.benchmarks import known_benchmark, missing
from blocklora.data.load import read_dataset
from blocklora.data.names import Finder
from blocklora.data.record import content_digests
from blocklora.data.sampling import half_of_classes
from blocklora.data.types import Dataset, Example, FewShotSplit, Source, Unreadable

__all__ = ["LabelledImages", "SplitPart", "read_labelled", "read_split_part", "seen_images"]


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images to measure a classifier on.

    Attributes:
        name: What messages call them.
        class_names: In label order; a class may have no image.
        images: All of them, in the order of the data.
        notes: What was decided or left out, one sentence each.
        found_names: The classes as the data itself names them, where ``class_names`` are other words; else empty.
        prompt: The data's own prompt template, with one "{}".
    """

    name: str
    class_names: tuple[str, ...]
    images: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    found_names: tuple[str, ...] = ()
    prompt: str = "a photo of a {}."


@dataclass(frozen=True)
class SplitPart:
    """One part of a run's images, as they are now.

    Attributes:
        images: Those that are there, with the run's labels.
        problems: Those that are missing or have another content now, with the reason.
        notes: What could not be checked, one sentence each.
    """

    images: tuple[Example, ...]
    problems: tuple[Unreadable, ...]
    notes: tuple[str, ...] = ()


def read_labelled(choice: DataChoice) -> LabelledImages:
    """Read labelled images, without holding any out: one class, or one image a class, is enough.

    Args:
        choice: Which data; its protocol and index are not used.

    Returns:
        The images of the test part, where the data has one, and a note that says so; else all images.

    Raises:
        DataError: The data cannot be read, or images are missing; the message counts and names them.
    """
    found = read_dataset(choice.data, choice.root, training=False)
    if choice.class_names:
        found = renamed(found, user_path(choice.class_names))
    if choice.classes:
        found, _ = half_of_classes(found, FewShotSplit((), (), found.test), choice.classes)
    images = tuple(found.test) or (*found.train, *found.val)
    if not images:
        raise DataError(f"{found.name}: there are no images")
    if gone := missing(images):
        raise DataError(
            f"{found.name}: {count(len(gone), 'image')} of {len(images)} not found ({name_some(gone)}): put them back"
        )
    notes = (*found.notes, *_part_notes(found, images))
    return LabelledImages(found.name, found.class_names, images, notes, found.found_names, found.prompt)


def _part_notes(found: Dataset, images: Sequence[Example]) -> list[str]:
    """Say that only the test part is read, where there is more."""
    n = len(found.train) + len(found.val) + len(found.test)
    if len(images) == n:
        return []
    return [
        f"{found.name} has a test part: its {count(len(images), 'image')} of {n} are read, the others are not"
    ]


def read_split_part(record: Mapping[str, Any], part: str, choice: DataChoice) -> SplitPart:
    """Find the images that a run recorded.

    Args:
        record: What split.json holds.
        part: ``train``, ``val`` or ``test``.
        choice: The run's data, or the place where it lies now.

    Returns:
        The images that are there with the content that was recorded, and what is wrong with the others.

    Raises:
        DataError: The record has no such part.
    """
    items = _items(record, part)
    places = _places(record, choice)
    finder = Finder()
    named = [(item, _find(finder, places, item["image"])) for item in items]
    lost = [item["image"] for item, path in named if path is None]
    memory = _in_memory(choice) if lost else {}
    there, problems = [], []
    for item, path in named:
        source: Source | None = path or memory.get(item["image"])
        if source is None:
            problems.append(Unreadable(item["image"], _lost(item["image"], places)))
        else:
            there.append((item, Example(item["image"], item["label"], source)))
    images = []
    for (item, example), digest in zip(there, _digests([example for _, example in there]), strict=True):
        if item.get("sha256", digest) == digest:
            images.append(example)
        else:
            problems.append(Unreadable(example.image, _replaced(example)))
    unchecked = sum("sha256" not in item for item in items)
    notes = (
        f"{count(unchecked, f'{part} image')} recorded without a hash: whether they were replaced since is not known",
    )
    return SplitPart(tuple(images), tuple(problems), notes if unchecked else ())


def seen_images(
    record: Mapping[str, Any],
    examples: Sequence[Example],
    choice: DataChoice,
    parts: Sequence[str] = ("train", "val"),
) -> dict[int, str]:
    """Tell which images a run trained on or validated on, by content.

    Args:
        record: What the run's split.json holds.
        examples: Labelled images, of any data.
        choice: The run's data, which is read where the record is an old one without hashes.
        parts: Those of the run that are looked through.

    Returns:
        For each such image its place in ``examples``, and the name of the run's image that has the same content.
        An image that cannot be read is none of them.
    """
    seen: dict[str, str] = {}
    for part in parts:
        items = _items(record, part)
        if all("sha256" in item for item in items):
            seen |= {item["sha256"]: item["image"] for item in items}
        else:
            old = read_split_part(record, part, choice).images
            seen |= dict(zip(_digests(old), (example.image for example in old), strict=True))
    return {place: seen[digest] for place, digest in enumerate(_digests(examples)) if digest in seen}


def _items(record: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """Return the entries of one part, after checking their form."""
    items = record.get(part)
    good = isinstance(items, list) and all(
        isinstance(item, dict) and isinstance(item.get("image"), str) and isinstance(item.get("label"), int)
        for item in items
    )
    if not good:
        raise DataError(
            f"split.json: expected a list {part!r} of images with 'image' and 'label': the run is not whole, or no run"
        )
    return list(items or ())


def _places(record: Mapping[str, Any], choice: DataChoice) -> list[Path]:
    """Return the folders that recorded paths may be relative to: where the data is said to be, and where it was."""
    places = []
    path = user_path(choice.data)
    if choice.root is not None:
        row = known_benchmark(choice.data)
        folder = row.folder(user_path(choice.root))
        places += [row.image_folder(folder)] if folder else []
    elif choice.data.startswith("hf:"):
        places.append(hub_folder(choice.data.removeprefix("hf:")))
    elif path.exists():
        places.append(path if path.is_dir() else path.parent)
    elif choice.data in bundled_names():
        places.append(ASSETS / choice.data)
    if isinstance(record.get("folder"), str):
        places.append(Path(record["folder"]))
    return places


def _find(finder: Finder, places: Sequence[Path], image: str) -> Path | None:
    """Return the file of a recorded image in the first place that has it."""
    return next((path for place in places if (path := finder.find(place, image))), None)


def _in_memory(choice: DataChoice) -> dict[str, Source]:
    """Return the images of a data set that are not files: rows of a Parquet table, and the bundled digits."""
    if choice.root is not None or not (
        choice.data in bundled_names() or choice.data.lower().endswith(".parquet")
    ):
        return {}
    try:
        found = read_dataset(choice.data, training=False)
    except DataError:
        return {}  # its images are missing then, which is said of each
    return {e.image: e.source for part in (found.train, found.val, found.test) for e in part}


def _lost(image: str, places: Sequence[Path]) -> str:
    """Say that a recorded image is not there."""
    if not places:
        return f"{image}: the data of the run is not there any more: put it back, or say where it is now"
    path = places[0] / image
    return f"{path}: {why_missing(path)}, but the run used it: put it back"


def _replaced(example: Example) -> str:
    where = example.source if isinstance(example.source, Path) else example.image
    return f"{where}: was replaced since the run: its content is another: put the old one back"


def _digests(examples: Sequence[Example]) -> list[str]:
    """Return the hash of each image's content, and "" for what cannot be read."""
    pairs = [(example.image, example.source) for example in examples]
    try:
        return content_digests(pairs)
    except ImageError:
        return [_digest(pair) for pair in pairs]


def _digest(pair: tuple[str, Source]) -> str:
    try:
        return content_digests([pair])[0]
    except ImageError:
        return ""
