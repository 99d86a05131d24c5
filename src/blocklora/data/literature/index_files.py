"""A published list of images in the place of sampling: JSON or JSON lines.

Read are ``split.json`` of a run, the ``indices/`` of linzhiqiu/cross_modal_adaptation
(``{"train": {"data": [{"impath", "label", "classname"}]}, "val": ...}``), entries as in CoOp's split files
(``{"train": [[path, label, name]]}``), plain lists of paths, and lines of ``{"image": path, "split": "train"}``. Paths
may have other folders in front than here: the longest ending that names an image of the data set counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError
from blocklora.core.words import count, name_some
from blocklora.data.assemble import SPLIT_NAMES
from blocklora.data.literature.split_files import read_json_file
from blocklora.data.names import same_name
from blocklora.data.types import Dataset, Example, FewShotSplit

__all__ = ["read_index"]

_PATH_KEYS = ("image", "impath", "path")
_EXPECTED = "expected lists of paths, or of objects with 'image' and 'label', under 'train' and 'val'"


def read_index(path: Path, dataset: Dataset) -> FewShotSplit:
    """Take the training and validation images that an index file names.

    Args:
        path: The .json or .jsonl file. A plain list, or lines without "split", are training images.
        dataset: Where the images are looked for, in its training and validation parts.

    Returns:
        The split, in the file's order; the test part is the data set's.

    Raises:
        DataError: The file has another form, or an image is unknown, ambiguous, a test image, in both parts, or
            has another label there; or a class has no training image. The message names the entry.
    """
    listed = _listed(path)
    pool = {same_name(example.image): example for example in (*dataset.train, *dataset.val)}
    tested = {same_name(example.image) for example in dataset.test}
    chosen: dict[str, list[Example]] = {"train": [], "val": []}
    seen: dict[str, str] = {}
    for part in chosen:
        for number, item in enumerate(listed.get(part, ())):
            where = f"{path}: {part}[{number}]"
            name, label = _item(item, where)
            image = _find(name, pool, tested, where)
            if seen.setdefault(image, part) != part:
                raise DataError(f"{where} {name!r} stands in {seen[image]} as well: keep it in one part")
            if label is not None and label != pool[image].label:
                raise DataError(
                    f"{where} {name!r} has label {label}, but {pool[image].label} in {dataset.name}: it was made for "
                    "another order of classes"
                )
            chosen[part].append(pool[image])
    trained = {example.label for example in chosen["train"]}
    if absent := [name for label, name in enumerate(dataset.class_names) if label not in trained]:
        raise DataError(
            f"{path}: names no training image for {name_some(absent)}: expected some for every class"
        )
    notes = [f"{count(len(seen), 'image')} taken from {path.name}; nothing was sampled"]
    if not chosen["val"]:
        notes.append("no validation images: the index file names none")
    return FewShotSplit(tuple(chosen["train"]), tuple(chosen["val"]), dataset.test, tuple(notes))


def _listed(path: Path) -> Mapping[str, Sequence[Any]]:
    """Return the entries of each part."""
    if path.suffix.lower() != ".jsonl":
        content = read_json_file(path)
        if isinstance(content, list):
            return {"train": content}
        parts = (
            {part: content.get(part, []) for part in ("train", "val")} if isinstance(content, dict) else {}
        )
        parts = {part: held.get("data") if isinstance(held, dict) else held for part, held in parts.items()}
        if not parts.get("train") or any(not isinstance(held, list) for held in parts.values()):
            raise DataError(f"{path}: this is no index file: {_EXPECTED}")
        return parts
    parts = {"train": [], "val": []}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): make it readable") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not JSON ({error.msg}): {_EXPECTED}, one a line"
            ) from None
        split = str(item.get("split", "train")).lower() if isinstance(item, dict) else "train"
        if SPLIT_NAMES.get(split) not in parts:
            raise DataError(f"{path}: line {number} has split {split!r}: expected train or val")
        parts[SPLIT_NAMES[split]].append(item)
    return parts


def _item(item: Any, where: str) -> tuple[str, int | None]:
    """Return path and label (None where it is not given) of one entry."""
    if isinstance(item, list) and len(item) == 3:
        item = {"image": item[0], "label": item[1]}
    if isinstance(item, dict):
        name = next((item[key] for key in _PATH_KEYS if key in item), None)
        label = item.get("label")
        if isinstance(name, str) and (label is None or isinstance(label, int)):
            return name, label
    if isinstance(item, str):
        return item, None
    raise DataError(f"{where} is {json.dumps(item)[:120]}: {_EXPECTED}")


def _find(name: str, pool: Mapping[str, Example], tested: set[str], where: str) -> str:
    """Return the image of the data set whose name is the longest ending of a path."""
    pieces = [piece for piece in name.replace("\\", "/").split("/") if piece not in ("", ".")]
    for start in range(len(pieces)):
        ending = same_name("/".join(pieces[start:]))
        if ending in pool:
            return ending
        if ending in tested:
            raise DataError(f"{where} {name!r} is a test image: an index file names images to train on")
    raise DataError(
        f"{where} {name!r} is no image of the data set: expected a path as in {next(iter(pool))!r}"
    )
