"""A data set as a folder of class folders, with or without train/, val/ and test/ above them.

Which of the two it is follows from where the images are: train/ that holds images itself is a class, train/
whose sub-folders hold them is a split. Folders with longer names, as training_set/ and test_set/, are splits where they
all hold the same class folders.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.words import count, name_some, printable
from blocklora.data.assemble import SPLIT_NAMES, in_order, is_text, take_val_as_test, tally
from blocklora.data.images import IMAGE_ENDINGS
from blocklora.data.scan import Tree, entries, scan
from blocklora.data.types import Dataset, Example

__all__ = ["read_folder"]

LAYOUT = "put the images of each class into a folder of its own, as in photos/cat/1.jpg and photos/dog/1.jpg"
_ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))
_PARTS = ("train", "val", "test")


def read_folder(root: Path, *, training: bool = True) -> Dataset:
    """Read a folder of class folders, or of train/ [val/] [test/] with class folders each.

    Classes are sorted by name without case, numbers by value; images by their path. Images deeper inside a class folder
    belong to the class, which a note says. With train/ and val/ but no test/, val/ is the test part.

    Args:
        root: An existing folder.
        training: Whether it is to be trained on. Then every class needs training images, and a class folder without
            any image is an error, because dropping it would silently change what is classified.

    Returns:
        The data set as it lies there: nothing is held out. Notes say what was left out.

    Raises:
        DataError: The folder has another layout, or a layout that can be read in two ways.
    """
    tree = scan(root)
    if not tree.images:
        found = f" ({'; '.join(_left_out(tree))})" if tree.others or tree.broken else ""
        raise DataError(f"{root}: no images found in this folder{found}: {LAYOUT}; read are {_ENDINGS}")
    if not tree.children():
        raise DataError(f"{root}: {count(len(tree.images), 'image')} but no class folders: {LAYOUT}")
    splits = _splits(tree, training)
    branches = {part: tree.child(folder) for part, folder in splits.items()} or {"train": tree}
    class_names = _class_names(branches, training)
    parts = {part: _examples(branch, class_names, splits.get(part, "")) for part, branch in branches.items()}
    notes = [
        *_nested(branches.values()), *_guessed(splits), *_left_out(tree), *_loose([tree] * bool(splits), branches),
        *_outside(tree, splits),
    ]  # fmt: skip
    if take_val_as_test(parts):
        notes.append(
            f"no test split found: {splits['val']!r} is the test part, so that no setting is chosen by it"
        )
    train, val, test = (tuple(parts.get(part, ())) for part in _PARTS)
    return Dataset(root.resolve().name or str(root), tuple(class_names), train, val, test, notes=tuple(notes))


def _left_out(tree: Tree) -> list[str]:
    """Say which files are no images."""
    n = sum(tree.others.values())
    notes = [f"{count(n, 'file')} with other endings ignored: {tally(tree.others)}"] if n else []
    if tree.broken:
        notes.append(
            f"{count(len(tree.broken), 'link')} to what is not there ignored: {name_some(tree.broken)}"
        )
    return notes


def _loose(above: list[Tree], branches: Mapping[str, Tree]) -> list[str]:
    """Name images beside the class folders."""
    return [
        f"{count(len(loose), 'image')} beside the folders in {branch.root} ignored: {name_some(loose)}"
        for branch in (*above, *branches.values())
        if (loose := branch.loose())
    ]


def _outside(tree: Tree, splits: Mapping[str, str]) -> list[str]:
    """Name folders beside the splits."""
    outside = [child for child in tree.children() if splits and child not in splits.values()]
    if not outside:
        return []
    first = next(iter(splits.values()))
    return [f"folders beside {first!r} that are no split with class folders ignored: {name_some(outside)}"]


def _guessed(splits: Mapping[str, str]) -> list[str]:
    """Say which folders are taken for splits whose names are not just train, val or test."""
    guessed = [
        f"{folder!r} as {part}" for part, folder in splits.items() if folder.lower() not in SPLIT_NAMES
    ]
    return (
        [f"these folders hold the same class folders and are read as splits: {', '.join(guessed)}"]
        if guessed
        else []
    )


def _nested(branches: Iterable[Tree]) -> list[str]:
    """Name class folders whose images lie in sub-folders."""
    nested: dict[str, list[str]] = {}
    for branch in branches:
        for child, inside in branch.inner().items():
            if inside:
                nested.setdefault(child, inside)
    if not nested:
        return []
    named = [f"{child!r} ({name_some(inside)})" for child, inside in list(nested.items())[:5]]
    more = f" and {len(nested) - 5} more" if len(nested) > 5 else ""
    return [
        f"{count(len(nested), 'class folder')} with sub-folders, whose images all count for the class above: "
        f"{', '.join(named)}{more}; if the sub-folders are the classes, move them up into one folder"
    ]


def _splits(tree: Tree, training: bool) -> dict[str, str]:
    """Map "train", "val", "test" to folder names, train first; empty for class folders without splits."""
    inner = tree.inner()
    named = _named(child for child in inner if child.lower() in SPLIT_NAMES and inner[child])
    longer = _named(child for child in inner if inner[child])
    spoken = named | {part: folders for part, folders in longer.items() if part not in named}
    if spoken != named and _may_be_splits(tree, spoken):
        return _guess(tree, spoken)
    if not named:
        return _no_splits(tree)
    others = [child for child in inner if child.lower() not in SPLIT_NAMES]
    if "train" not in named:
        return _without_train(tree, named, others, training)
    if named["train"][0] in tree.direct() and not named.keys() - {"train"}:
        return _no_splits(tree)  # a class folder with images of its own and more in sub-folders
    _refuse_doubles(tree, named)
    if others and named.keys() == {"train"}:
        raise DataError(
            f"{tree.root}: {named['train'][0]!r} holds class folders, but {name_some(others)} lies beside "
            f"it: if it is the training split, give {tree.root / named['train'][0]} or move the others away; "
            "if it is a class, move its images out of their sub-folders"
        )
    return _in_order(named)


def _part(name: str) -> str | None:
    """Return which split a folder's name speaks of: "seg_train", "TrainingSet" and "train2017" are train."""
    words = re.findall(r"[a-z]+", name.lower())
    parts = {SPLIT_NAMES.get(re.sub(r"(?<=.)(set|data|images|imgs|photos)$", "", word)) for word in words} - {
        None
    }
    return parts.pop() if len(parts) == 1 else None


def _named(children: Iterable[str]) -> dict[str, list[str]]:
    """Sort folders by the split that their names speak of."""
    named: dict[str, list[str]] = {}
    for child in children:
        if part := _part(child):
            named.setdefault(part, []).append(child)
    return named


def _in_order(named: Mapping[str, list[str]]) -> dict[str, str]:
    return {part: named[part][0] for part in _PARTS if part in named}


def _may_be_splits(tree: Tree, named: Mapping[str, list[str]]) -> bool:
    """Whether folders hold no images of their own and share class folders, and one of them speaks of training."""
    folders = [folder for found in named.values() for folder in found]
    inner = tree.inner()
    shared = set.intersection(*(_composed(inner[folder]) for folder in folders))
    return "train" in named and len(named) > 1 and not tree.direct() & set(folders) and bool(shared)


def _guess(tree: Tree, named: Mapping[str, list[str]]) -> dict[str, str]:
    """Take folders with longer names for splits, where nothing speaks against it; ask where something does."""
    inner = tree.inner()
    folders = [folder for found in named.values() for folder in found]
    classes = [_composed(inner[folder]) for folder in folders]
    rest = [child for child in inner if child not in folders and (inner[child] or not _unlabelled(child))]
    if (
        rest
        or len(folders) > len(named)
        or any(names != classes[0] for names in classes)
        or len(classes[0]) < 2
    ):
        raise DataError(
            f"{tree.root}: {name_some(folders)} hold some of the same folders ({name_some(inner[folders[0]])}): are "
            f"they splits? Then call them train, val and test{f', and move {name_some(rest)} away' if rest else ''}. "
            "If they are the classes, move their images out of the sub-folders"
        )
    return _in_order(named)


def _composed(names: Iterable[str]) -> set[str]:
    return {unicodedata.normalize("NFC", name) for name in names}


def _unlabelled(name: str) -> bool:
    """Whether a folder of images without class folders beside splits is what Kaggle adds for predictions."""
    return bool(_part(name) or re.search(r"pred|unlabel", name.lower()))


def _without_train(
    tree: Tree, named: Mapping[str, list[str]], others: list[str], training: bool
) -> dict[str, str]:
    """Decide on folders called test/ or val/ with class folders in them and no train/ beside them."""
    if others or tree.direct():
        return _no_splits(tree)
    if training:
        raise DataError(
            f"{tree.root}: {name_some(folder for folders in named.values() for folder in folders)} "
            "without train/: add train/ with the same class folders, or give a folder of class folders"
        )
    _refuse_doubles(tree, named)
    return _in_order(named)


def _refuse_doubles(tree: Tree, named: Mapping[str, list[str]]) -> None:
    for folders in named.values():
        if len(folders) > 1:
            raise DataError(f"{tree.root}: {name_some(folders)} mean the same split: keep one of them")


def _no_splits(tree: Tree) -> dict[str, str]:
    """Return no splits, after checking that none lie inside of the class folders."""
    for child, inside in tree.inner().items():
        if len(parts := _named(inside)) > 1:
            folders = [folder for found in parts.values() for folder in found]
            raise DataError(
                f"{tree.root}: {child!r} holds {name_some(folders)}: splits lie above the classes, as in "
                f"{tree.root.name}/train/{child}; move them there, or write a table with a column 'split'"
            )
    return {}


def _class_names(branches: Mapping[str, Tree], training: bool) -> list[str]:
    """Return the class names: those of the training folder, or for testing those of all parts."""
    every = [child for branch in branches.values() for child in branch.children()]
    if unnamed := [child for child in every if not is_text(child)]:
        raise DataError(
            f"{printable(str(next(iter(branches.values())).root))}: the class folder {unnamed[0]!r} has a name that is "
            "not valid Unicode: rename it"
        )
    if not training:
        return in_order(every)
    branch = branches["train"]
    filled = set(branch.children())
    empty = [entry.name for entry in entries(branch.root) if entry.is_dir() and entry.name not in filled]
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


def _examples(branch: Tree, class_names: list[str], prefix: str) -> list[Example]:
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
        Example(
            printable("/".join([prefix, *pieces] if prefix else pieces)), label, branch.root.joinpath(*pieces)
        )
        for pieces in branch.images
        if len(pieces) > 1 and (label := folders[pieces[0]]) is not None
    ]
    return sorted(found, key=lambda example: example.label)  # stable: by path within a class
