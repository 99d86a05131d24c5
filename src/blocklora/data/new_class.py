"""A class more for a finished run: its name is checked, and its images are dealt out to training and test."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError
from blocklora.core.words import count, name_some, printable
from blocklora.data.choose import DataChoice
from blocklora.data.classes import same_words
from blocklora.data.labelled import seen_images
from blocklora.data.record import content_digests, readable
from blocklora.data.scan import image_files
from blocklora.data.types import Example, Unreadable

__all__ = ["NewClass", "check_new_name", "draw_new_class"]

_SHARE = 0.25  # of the images that test, and of those left where validation images are needed


@dataclass(frozen=True)
class NewClass:
    """The images of a class that a run does not know yet.

    Attributes:
        name: Of the class.
        train: What it is learned from, one image or more.
        val: Validation images; empty where the run has none.
        test: What measures it; empty where there is one image alone.
        unreadable: What could not be read.
        notes: What was left out, and how many test, a sentence each.
    """

    name: str
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]


def check_new_name(name: str, known: Sequence[str]) -> str:
    """Return the name of a new class, without spaces around it.

    Args:
        name: As it was given.
        known: The names of the classes that there are.

    Raises:
        DataError: It is blank, or the name of a class that is there, however it is written.
    """
    name = name.strip()
    if not name:
        raise DataError("the name of the new class is blank: give the word that stands in the prompt")
    if name in known:
        earlier = name
    else:
        earlier = next((one for one, other in same_words([*known, name]) if other == name), "")
    if earlier:
        raise DataError(
            f"{name!r}: the run has the class {earlier!r} already: choose another name; more images of that "
            "class train with 'blocklora fit DATA --add labels.csv'"
        )
    return name


def draw_new_class(
    name: str,
    folder: Path,
    record: Mapping[str, Any],
    choice: DataChoice,
    *,
    label: int,
    shots: int | None,
    seed: int,
) -> NewClass:
    """Deal out the images of a folder: a quarter tests, of the others ``shots`` train; what is left over tests, too.

    Where the run has validation images a quarter of those that do not test becomes validation images. An image whose
    content the run has already, in whatever part, is left out, and so is the second of two copies.

    Args:
        name: Of the class.
        folder: Its images, at any depth.
        record: What the run's split.json holds.
        choice: The run's data.
        label: Of the class.
        shots: The most training images; None: no limit.
        seed: Which image goes where.

    Raises:
        DataError: The folder is missing or empty, or none of its images can be used.
    """
    images, unreadable, notes = _usable(folder, record, choice, label)
    random.Random(seed).shuffle(images)
    n_test = _share(len(images))
    n_val = _share(len(images) - n_test) if record["val"] else 0
    n_train = min(len(images) - n_test - n_val, shots or len(images))
    val, train, test = images[:n_val], images[n_val : n_val + n_train], images[n_val + n_train :]
    tested = (
        f"{count(len(test), 'image')} of {name!r} were held out to test it"
        if len(test) != 1
        else f"1 image of {name!r} was held out to test it"
    )
    if not test:
        tested = f"{name!r} has one image, so none is left to test it on"
    return NewClass(name, tuple(train), tuple(val), tuple(test), tuple(unreadable), (tested, *notes))


def _usable(
    folder: Path, record: Mapping[str, Any], choice: DataChoice, label: int
) -> tuple[list[Example], list[Unreadable], list[str]]:
    """Return the images of a folder that can be read and that the run does not have, what cannot be read, and notes."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with the images of the new class: there is none")
    files = [path.absolute() for path in image_files(folder)]
    if not files:
        raise DataError(f"{folder}: this folder holds no images: put those of the new class there")
    found, unreadable = readable([Example(printable(path.as_posix()), label, path) for path in files])
    digests = content_digests([(one.image, one.source) for one in found])
    first = {digest: place for place, digest in reversed(list(enumerate(digests)))}
    known = seen_images(record, found, choice, ("train", "val", "test"))
    left = [one for place, one in enumerate(found) if place not in known and first[digests[place]] == place]
    notes = []
    if known:
        pairs = [f"{found[place].image} (as {image})" for place, image in known.items()]
        notes.append(
            f"{count(len(known), 'image')} of {folder.name!r} left out, because the run has the same content in "
            f"another class: {name_some(pairs)}"
        )
    if copies := len(found) - len(known) - len(left):
        notes.append(f"{count(copies, 'image')} of {folder.name!r} left out as copies of others there")
    if not left:
        reason = f" ({unreadable[0].reason.rstrip('.')})" if unreadable else ""
        raise DataError(
            f"{folder}: none of its {count(len(files), 'image')} can be used: {len(unreadable)} cannot be read{reason}"
            f", and the run has {len(known)} already in another class"
        )
    return left, unreadable, notes


def _share(n: int) -> int:
    """Return a quarter of n images, at least one; of a lone one nothing."""
    return max(1, int(n * _SHARE + 0.5)) if n > 1 else 0
