"""Checks on the images of a run: which can be read, which stand on both sides, and a record with a hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from blocklora.core.errors import ImageError
from blocklora.core.resources import available_resources
from blocklora.data.images import open_image
from blocklora.data.index_cache import digests
from blocklora.data.names import same_name
from blocklora.data.types import Example, FewShotSplit, Source, Unreadable

__all__ = [
    "content_digests",
    "extended_record",
    "leaks",
    "readable",
    "split_record",
    "training_record",
]


def readable(
    examples: Iterable[Example],
    decode: Callable[[Source], Image.Image] = open_image,
    *,
    workers: int | None = None,
) -> tuple[list[Example], list[Unreadable]]:
    """Open every image once, in threads, and part those that can be read from those that cannot.

    Args:
        examples: Images to try.
        decode: Opens one source or raises ``ImageError``.
        workers: Threads, 1 or more; by default one a processor core, at most 8.

    Returns:
        The readable examples and the unreadable ones with the reason, both in the order given.
    """
    examples = list(examples)

    def reason(example: Example) -> str | None:
        try:
            decode(example.source)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers or _workers()) as pool:
        reasons = list(pool.map(reason, examples))
    good = [example for example, why in zip(examples, reasons, strict=True) if why is None]
    bad = [Unreadable(e.image, why) for e, why in zip(examples, reasons, strict=True) if why is not None]
    return good, bad


def split_record(split: FewShotSplit, class_names: Sequence[str]) -> dict[str, Any]:
    """Describe a split for ``split.json``.

    Args:
        split: The images of a run.
        class_names: In label order.

    Returns:
        ``{"train" | "val" | "test": [{"image", "label", "class_name", "sha256"}, ...], "folder", "hash": hex}``, ready
        for JSON. "sha256" is that of an image's content, as ``content_digests`` gives it. "folder" is the absolute path
        that image names are relative to; None where no image is a file. The hash is a SHA-256 over class names, parts,
        image names, labels and the content of every image, equal on every system for equal data.

    Raises:
        ImageError: If a file can no longer be read.
    """
    return _record([*_seen(split), ("test", split.test)], class_names, "hash")


def training_record(split: FewShotSplit, class_names: Sequence[str]) -> dict[str, Any]:
    """Describe what a run may see before training has ended: as ``split_record``, without the test part.

    Returns:
        ``{"train": [...], "val": [...], "folder", "training_hash": hex}``.
    """
    return _record(_seen(split), class_names, "training_hash")


def extended_record(
    record: Mapping[str, Any], more: Mapping[str, Sequence[Example]], class_names: Sequence[str]
) -> dict[str, Any]:
    """Add images to what a finished run's split.json holds; the images that are there need not be.

    Args:
        record: What it holds, with all three parts.
        more: By part, the images to add.
        class_names: In label order, those of the added images among them.

    Returns:
        What ``split_record`` and ``training_record`` return for all images together.

    Raises:
        ImageError: If an added file can no longer be read.
    """
    rows = {
        part: [*record[part], *_rows(more.get(part, ()), class_names)] for part in ("train", "val", "test")
    }
    seen = {part: rows[part] for part in ("train", "val")}
    return {
        **rows,
        "folder": record.get("folder"),
        "hash": _hash(rows, class_names),
        "training_hash": _hash(seen, class_names),
    }


def _record(
    parts: Iterable[tuple[str, Sequence[Example]]], class_names: Sequence[str], name: str
) -> dict[str, Any]:
    listed = list(parts)
    rows = {part: _rows(examples, class_names) for part, examples in listed}
    folders = (_folder(example) for _, examples in listed for example in examples)
    folder = next((folder for folder in folders if folder), None)
    return {**rows, "folder": folder, name: _hash(rows, class_names)}


def _rows(examples: Sequence[Example], class_names: Sequence[str]) -> list[Mapping[str, str | int]]:
    """Return what split.json holds of each image."""
    return [
        {
            "image": example.image,
            "label": example.label,
            "class_name": class_names[example.label],
            "sha256": digest,
        }
        for example, digest in zip(examples, _digests(examples), strict=True)
    ]


def _hash(rows: Mapping[str, Sequence[Mapping[str, Any]]], class_names: Sequence[str]) -> str:
    """Return the SHA-256 over class names, parts, image names, labels and contents."""
    total = hashlib.sha256(_line(list(class_names)))
    for part, items in rows.items():
        for item in items:
            total.update(_line([part, item["image"], item["label"], item.get("sha256", "")]))
    return total.hexdigest()


def _folder(example: Example) -> str | None:
    """Return the folder that an image's name is relative to; None where it is not the end of the file's path."""
    path = example.source
    depth = len(PurePosixPath(example.image).parts)
    if not isinstance(path, Path) or PurePosixPath(example.image).is_absolute() or depth >= len(path.parts):
        return None
    if same_name("/".join(path.parts[-depth:])) != same_name(example.image):
        return None
    return os.path.abspath(Path(*path.parts[:-depth]))


def content_digests(images: Sequence[tuple[str, Source]]) -> list[str]:
    """Return the SHA-256 of each file's bytes, or of size and RGB pixels of an image in memory.

    Args:
        images: Names, for messages alone, and sources.

    Raises:
        ImageError: If a file can no longer be read.
    """
    known = iter(digests([source for _, source in images if isinstance(source, Path)]))
    return [next(known) if isinstance(source, Path) else _digest(name, source) for name, source in images]


def leaks(split: FewShotSplit) -> list[tuple[str, str]]:
    """Find images, identical byte by byte, that stand both in training or validation and in the test part.

    Args:
        split: The images of a run.

    Returns:
        Pairs of names (training or validation image, test image), in the order of the test part. An image
        saved anew with other bytes is not found.

    Raises:
        ImageError: If a file can no longer be read.
    """
    seen = [*split.train, *split.val]
    sizes = {_size(example) for example in seen} & {_size(example) for example in split.test}
    seen = [example for example in seen if _size(example) in sizes]  # only equal sizes can be equal
    tested = [example for example in split.test if _size(example) in sizes]
    first: dict[str, str] = {}
    for example, digest in zip(seen, _digests(seen), strict=True):
        first.setdefault(digest, example.image)
    pairs = zip(tested, _digests(tested), strict=True)
    return [(first[digest], example.image) for example, digest in pairs if digest in first]


def _seen(split: FewShotSplit) -> list[tuple[str, Sequence[Example]]]:
    return [("train", split.train), ("val", split.val)]


def _line(values: list[Any]) -> bytes:
    """Write values as one line of ASCII JSON: no two different lists give the same bytes."""
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def _digests(examples: Sequence[Example]) -> list[str]:
    return content_digests([(example.image, example.source) for example in examples])


def _digest(name: str, source: Image.Image | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    image = open_image(source, name=name)
    return hashlib.sha256(_line([*image.size]) + image.tobytes()).hexdigest()


def _size(example: Example) -> tuple[int, ...]:
    """Return a cheap number that equal images share: bytes of a file, or width and height."""
    source = example.source
    if isinstance(source, Image.Image):
        return source.size
    if isinstance(source, bytes):
        return (len(source),)
    try:
        return (source.stat().st_size,)
    except OSError as error:
        raise _gone(source, error) from error


def _gone(path: Path, error: OSError) -> ImageError:
    return ImageError(
        f"{path}: the file can no longer be read ({error.strerror}): put it back, or load the data anew"
    )


def _workers() -> int:
    return min(8, available_resources().cores)
