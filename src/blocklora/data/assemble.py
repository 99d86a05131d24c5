"""From a data set as it was found to one that can be trained on and tested; shared by folders, tables and the hub."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from blocklora.core.errors import DataError
from blocklora.core.words import count, name_some
from blocklora.data.classes import label_notes
from blocklora.data.types import Dataset, Example

__all__ = ["SPLIT_NAMES", "assemble", "in_order", "is_text", "take_val_as_test", "tally"]

SPLIT_NAMES: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Spellings of a split, in lower case, and the part each one means."""

TEST_SHARE = 0.25
ENDINGS_IN_A_NOTE = 5


def assemble(found: Dataset, *, seed: int, hold_out: bool = True) -> Dataset:
    """Check a data set and, where there is no test part, hold one out.

    Args:
        found: As it was read.
        seed: Chooses the held-out images, by its own generator.
        hold_out: Whether to; else the test part stays empty.

    Returns:
        The data set, every class of which has a training image; more notes are added at the end.

    Raises:
        DataError: If there are fewer than two classes, no training images, a class without training images,
            or no class with enough images to give one to a test set.
    """
    name, class_names = found.name, found.class_names
    if not found.train:
        raise DataError(f"{name}: there are no training images: add some, or name their split 'train'")
    trained = {example.label for example in found.train}
    for part, examples in (("validation", found.val), ("test", found.test)):
        unknown = sorted({example.label for example in examples} - trained)
        if unknown:
            raise DataError(
                f"{name}: {name_some(class_names[label] for label in unknown)} has {part} images but no "
                f"training images: add training images, or remove the {part} images"
            )
    if len(class_names) < 2:
        raise DataError(
            f"{name}: all {count(len(found.train), 'image')} belong to one class, {class_names[0]!r}, but a "
            "classifier needs two or more: add images of a second class"
        )
    notes = [*found.notes, *label_notes(_counts(found))]
    if not found.test and not hold_out:
        return replace(found, notes=tuple(notes))
    if not found.test:
        train, test, more = _hold_out(name, class_names, found.train, seed)
        return replace(found, train=train, test=test, notes=(*notes, *more), held_out=True)
    untested = [class_names[label] for label in sorted(trained - {example.label for example in found.test})]
    if untested:
        notes.append(f"{count(len(untested), 'class')} without test images: {name_some(untested)}")
    return replace(found, notes=tuple(notes))


def take_val_as_test(parts: dict[str, list[Example]]) -> bool:
    """Make the validation images the test part where there is none, and say whether that was done.

    Not where they have a class without training images, which ``assemble`` names.
    """
    train, val = parts.get("train", []), parts.get("val", [])
    known = {example.label for example in val} <= {example.label for example in train}
    if parts.get("test") or not (train and val and known):
        return False
    parts["val"], parts["test"] = [], val
    return True


def _counts(found: Dataset) -> dict[str, int]:
    """Count the images of each class, in all parts."""
    labels = Counter(example.label for part in (found.train, found.val, found.test) for example in part)
    return {name: labels[label] for label, name in enumerate(found.class_names)}


def _hold_out(
    name: str, class_names: Sequence[str], pool: Sequence[Example], seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...], list[str]]:
    """Take a quarter of each class, at least one image, as the test part; a lone image stays for training."""
    rng = random.Random(seed)
    groups: dict[int, list[int]] = {}
    for place, example in enumerate(pool):
        groups.setdefault(example.label, []).append(place)
    held: set[int] = set()
    for label in sorted(groups):
        places = groups[label]
        if len(places) > 1:
            held.update(rng.sample(places, max(1, int(len(places) * TEST_SHARE + 0.5))))
    if not held:
        raise DataError(
            f"{name}: there is no test split and every class has one image, so nothing is left to test on: "
            "add a second image to a class, or a test split"
        )
    notes = [
        f"no test split found: {TEST_SHARE:.0%} of each class ({len(held)} of {count(len(pool), 'image')}) "
        f"is held out as the test set with seed {seed}; both sides come from the same pool, so similar shots "
        "of one scene may stand on both"
    ]
    lone = [class_names[label] for label in sorted(groups) if len(groups[label]) == 1]
    if lone:
        notes.append(f"{count(len(lone), 'class')} with one image, used for training: {name_some(lone)}")
    train = tuple(example for place, example in enumerate(pool) if place not in held)
    return train, tuple(pool[place] for place in sorted(held)), notes


def in_order(class_names: Iterable[str]) -> list[str]:
    """Sort distinct names alike on every system: case ignored, numbers by value (2 before 10)."""

    def key(name: str) -> tuple[list[tuple[int, str]], str]:
        # "a10b" -> [(-1, "a"), (10, ""), (-1, "b")]: pairs compare whatever stands at one place
        pieces = re.split(r"([0-9]+)", name.casefold())
        return [(int(piece), "") if place % 2 else (-1, piece) for place, piece in enumerate(pieces)], name

    return sorted({unicodedata.normalize("NFC", name) for name in class_names}, key=key)


def is_text(name: str) -> bool:
    """Whether a file's name can be written as UTF-8; on Linux a name may be any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def tally(endings: Counter[str]) -> str:
    """List up to five file endings, most frequent first: ".txt (3), .heic (1)"."""
    return ", ".join(f"{ending or 'no ending'} ({n})" for ending, n in endings.most_common(ENDINGS_IN_A_NOTE))
