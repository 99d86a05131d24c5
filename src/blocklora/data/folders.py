"""A data set as a folder of class folders, with or without train/, val/ and test/ above them.

Which of the two it is follows from where the images are: train/ that holds images itself is a class, train/
whose sub-folders hold them is a split.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.data.assemble import SPLIT_NAMES, assemble, count, in_order, is_text, name_some, tally
from blocklora.data.images import IMAGE_ENDINGS
from blocklora.data.types import Dataset, Example

__all__ = ["load_folder"]

LAYOUT = "put the images of each class into a folder of its own, as in photos/cat/1.jpg and photos/dog/1.jpg"
_ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # names starting with "." are ignored as well


@dataclass
class _Tree:
    """What one folder holds: its images, and how many other files of which ending, all levels down."""

    root: Path
    images: list[tuple[str, ...]] = field(default_factory=list)  # path pieces below root, sorted
    others: Counter[str] = field(default_factory=Counter)

    def loose(self) -> list[str]:
        """Return the images that lie directly in the folder."""
        return [pieces[0] for pieces in self.images if len(pieces) == 1]

    def child(self, name: str) -> _Tree:
        """Return the part of the tree below one sub-folder."""
        inside = [pieces[1:] for pieces in self.images if pieces[0] == name and len(pieces) > 1]
        return _Tree(self.root / name, inside)

    def children(self) -> list[str]:
        """Return the sub-folders that hold images."""
        return list(dict.fromkeys(pieces[0] for pieces in self.images if len(pieces) > 1))


def load_folder(root: Path, *, seed: int) -> Dataset:
    """Read a folder of class folders, or of train/ [val/] [test/] with class folders each.

    Classes are sorted by name without case, numbers by value; images by their path. Images deeper inside a
    class folder belong to the class. A class folder without any image is an error, because dropping it would
    silently change what is classified.

    Args:
        root: An existing folder.
        seed: Chooses the held-out test images where there is no test/.

    Returns:
        The data set, with notes on what was left out.

    Raises:
        DataError: If the folder has another layout, an empty class folder, or fewer than two classes.
    """
    tree = _scan(root)
    if not tree.images:
        found = f" ({'; '.join(_other_files(tree))})" if tree.others else ""
        raise DataError(f"{root}: no images found in this folder{found}: {LAYOUT}; read are {_ENDINGS}")
    if not tree.children():
        raise DataError(f"{root}: {count(len(tree.images), 'image')} but no class folders: {LAYOUT}")
    splits = _splits(tree)
    branches = {part: tree.child(folder) for part, folder in splits.items()} or {"train": tree}
    class_names = _class_names(branches["train"])
    parts = {part: _examples(branch, class_names, splits.get(part, "")) for part, branch in branches.items()}
    notes = _other_files(tree)
    for branch in (tree, *branches.values()) if splits else (tree,):
        if loose := branch.loose():
            beside = f"{count(len(loose), 'image')} beside the folders in {branch.root}"
            notes.append(f"{beside} ignored: {name_some(loose)}")
    outside = [child for child in tree.children() if splits and child not in splits.values()]
    if outside:
        beside = f"folders beside {splits['train']!r} that are no split with class folders"
        notes.append(f"{beside} ignored: {name_some(outside)}")
    return assemble(root.resolve().name or str(root), class_names, parts, seed=seed, notes=notes)


def _other_files(tree: _Tree) -> list[str]:
    n = sum(tree.others.values())
    return [f"{count(n, 'file')} with other endings ignored: {tally(tree.others)}"] if n else []


def _splits(tree: _Tree) -> dict[str, str]:
    """Map "train", "val", "test" to folder names, train first; empty for class folders without splits."""
    named: dict[str, list[str]] = {}
    for child in tree.children():
        if child.lower() in SPLIT_NAMES and tree.child(child).children():
            named.setdefault(SPLIT_NAMES[child.lower()], []).append(child)
    others = [child for child in tree.children() if child.lower() not in SPLIT_NAMES]
    if "train" not in named:
        if named and not others and not any(tree.child(child).loose() for child in tree.children()):
            raise DataError(
                f"{tree.root}: {name_some(folder for folders in named.values() for folder in folders)} "
                "without train/: add train/ with the same class folders, or give a folder of class folders"
            )
        return {}
    if tree.child(named["train"][0]).loose() and not named.keys() - {"train"}:
        return {}  # a class folder with images of its own and more in sub-folders
    for folders in named.values():
        if len(folders) > 1:
            raise DataError(f"{tree.root}: {name_some(folders)} mean the same split: keep one of them")
    if others and named.keys() == {"train"}:
        raise DataError(
            f"{tree.root}: {named['train'][0]!r} holds class folders, but {name_some(others)} lies beside "
            f"it: if it is the training split, give {tree.root / named['train'][0]} or move the others away; "
            "if it is a class, move its images out of their sub-folders"
        )
    return {part: named[part][0] for part in ("train", "val", "test") if part in named}


def _class_names(branch: _Tree) -> list[str]:
    """Return the class names of a training folder, refusing class folders without images."""
    filled: set[str] = set(branch.children())
    empty = [entry.name for entry in _entries(branch.root) if entry.is_dir() and entry.name not in filled]
    if empty:
        raise DataError(
            f"{branch.root}: no images in {name_some(in_order(empty))}: every folder here is a class and "
            f"needs an image ({', '.join(sorted(IMAGE_ENDINGS))}); add images, or move the folder away"
        )
    class_names = in_order(filled)
    if len(class_names) == 1 and (inner := branch.child(class_names[0]).children()):
        raise DataError(
            f"{branch.root}: one class folder only, {class_names[0]!r}, which holds folders itself "
            f"({name_some(inner)}): if those are the classes, give {branch.root / class_names[0]}"
        )
    return class_names


def _examples(branch: _Tree, class_names: list[str], prefix: str) -> list[Example]:
    """Label the images of one part, classes in label order and images by path within a class."""
    labels = {name: label for label, name in enumerate(class_names)}
    folders = {child: labels.get(unicodedata.normalize("NFC", child)) for child in branch.children()}
    unknown = [child for child, label in folders.items() if label is None]
    if unknown:
        raise DataError(
            f"{branch.root}: no training images for {name_some(in_order(unknown))}: add the same class "
            "folder to train/, or remove it here (names must agree in case and spelling)"
        )
    found = [
        Example("/".join([prefix, *pieces] if prefix else pieces), label, branch.root.joinpath(*pieces))
        for pieces in branch.images
        if len(pieces) > 1 and (label := folders[pieces[0]]) is not None
    ]
    return sorted(found, key=lambda example: example.label)  # stable: by path within a class


def _scan(root: Path) -> _Tree:
    """List a folder to its full depth, following symbolic links except those that lead back up."""
    tree = _Tree(root)
    waiting: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), (os.path.realpath(root),))]
    while waiting:
        pieces, above = waiting.pop()  # path below root, real paths of the folder and all above it
        for entry in _entries(root.joinpath(*pieces)):
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    waiting.append(((*pieces, entry.name), (*above, real)))
                continue
            ending = os.path.splitext(entry.name)[1].lower()
            if ending in IMAGE_ENDINGS and entry.is_file():
                tree.images.append((*pieces, entry.name))
            else:
                tree.others[ending] += 1
    tree.images.sort(key=lambda pieces: unicodedata.normalize("NFC", "/".join(pieces)))
    return tree


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what a folder holds, without hidden files and what systems leave behind."""
    try:
        with os.scandir(folder) as found:
            entries = [e for e in found if not e.name.startswith(".") and e.name.lower() not in _IGNORED]
    except OSError as error:
        raise DataError(
            f"{folder}: this folder cannot be listed ({error.strerror}): make it readable"
        ) from error
    for entry in entries:
        if not is_text(entry.name):
            raise DataError(f"{folder}: the name {entry.name!r} in it is not valid Unicode: rename it")
    return entries
