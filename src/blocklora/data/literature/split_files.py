"""Split files as CoOp publishes them, and lists of (path, label, class name) in general.

``split_zhou_NAME.json`` is ``{"train" | "val" | "test": [[relative path, label, class name], ...]}``. The order of the
entries is kept: sampling depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from blocklora.core.errors import DataError
from blocklora.core.words import name_some
from blocklora.data.types import Example

__all__ = ["Entry", "Found", "checked", "read_json_file", "read_split_file"]

PARTS = ("train", "val", "test")


class Entry(NamedTuple):
    """One line of a split: the path below the image folder, the label, and the label's name."""

    image: str
    label: int
    class_name: str


@dataclass(frozen=True)
class Found:
    """What a reader found: class names in label order, images by part, and what was decided."""

    class_names: tuple[str, ...]
    parts: Mapping[str, Sequence[Example]]
    notes: tuple[str, ...] = ()


def read_split_file(path: Path, images: Path) -> Found:
    """Read a ``split_zhou`` file.

    Args:
        path: The JSON file.
        images: The folder that its paths are relative to.

    Raises:
        DataError: The file is no such JSON, or an entry is broken; the message names the entry.
    """
    content = read_json_file(path)
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
        raise DataError(
            f"{path}: this is no split file: expected an object with lists 'train', 'val' and 'test'; "
            "download it again"
        )
    parts = {part: [_entry(path, part, n, raw) for n, raw in enumerate(content[part])] for part in PARTS}
    return checked(parts, path, images)


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: It cannot be read; the message names the line where it stops being JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}, column {error.colno} is not JSON ({error.msg}): download the file again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): make it readable, or download it again") from None


def checked(parts: Mapping[str, Sequence[Entry]], where: Path, images: Path) -> Found:
    """Turn entries into labelled images, after checking that they belong together.

    Args:
        parts: Entries of "train", "val" and "test", in order.
        where: The file or folder that messages name.
        images: The folder that paths are relative to.

    Raises:
        DataError: A path leaves the folder, a label has two names, labels have a gap or no training image, or
            an image stands in two parts or has two labels.
    """
    names: dict[int, str] = {}
    seen: dict[str, tuple[str, int]] = {}
    for part in PARTS:
        for number, entry in enumerate(parts.get(part, ())):
            place = f"{where}: {part}[{number}] {entry.image!r}"
            if not _stays_inside(entry.image):
                raise DataError(
                    f"{place} leaves the image folder {images}: expected a relative path without '..'"
                )
            name = names.setdefault(entry.label, entry.class_name)
            if name != entry.class_name:
                raise DataError(
                    f"{place}: label {entry.label} is {entry.class_name!r} here but {name!r} before: expected one "
                    "name a label"
                )
            before = seen.setdefault(entry.image, (part, entry.label))
            if before != (part, entry.label):
                raise DataError(
                    f"{place} with label {entry.label} stands in {before[0]} with label {before[1]} as well: "
                    "expected every image in one part, with one label"
                )
    _check_labels(parts, names, where)
    examples = {
        part: tuple(Example(e.image, e.label, images / e.image) for e in entries)
        for part, entries in parts.items()
    }
    return Found(tuple(names[label] for label in range(len(names))), examples)


def _entry(path: Path, part: str, number: int, raw: Any) -> Entry:
    """Check the form of one entry."""
    good = isinstance(raw, list) and len(raw) == 3 and isinstance(raw[0], str) and isinstance(raw[2], str)
    if (
        not good
        or isinstance(raw[1], bool)
        or not isinstance(raw[1], int)
        or not raw[0]
        or not raw[2].strip()
    ):
        raise DataError(
            f"{path}: {part}[{number}] is {json.dumps(raw)[:120]}: expected [relative path, label, class name]"
        )
    return Entry(*raw)


def _stays_inside(image: str) -> bool:
    """Whether a relative path cannot point outside of its folder, on any system."""
    posix, windows = PurePosixPath(image), PureWindowsPath(image)
    absolute = posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root
    return not absolute and ".." not in posix.parts and ".." not in windows.parts


def _check_labels(parts: Mapping[str, Sequence[Entry]], names: Mapping[int, str], where: Path) -> None:
    """Raise unless labels run from 0 without a gap and all have training images."""
    labels = sorted(names)
    if labels != list(range(len(labels))):
        gap = next((n for n in range(len(labels)) if n not in names), labels[0])
        after = next((label for label in labels if label > gap), labels[0])
        raise DataError(
            f"{where}: there is no label {gap}, but a label {after} ({names[after]!r}): expected labels from 0 "
            "without a gap"
        )
    trained = {entry.label for entry in parts.get("train", ())}
    if untrained := [names[label] for label in labels if label not in trained]:
        raise DataError(
            f"{where}: no training images for {name_some(untrained)}: expected some for every class"
        )
