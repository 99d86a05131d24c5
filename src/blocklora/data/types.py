"""What a data set is: one labelled image, a whole set, and the few-shot part of it that a run uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image

__all__ = ["Dataset", "Example", "FewShotSplit", "Source", "Unreadable"]

Source: TypeAlias = Path | Image.Image | bytes
"""Where pixels are: a file, an image already in memory, or the bytes of a file (from a Parquet table)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image.

    Args:
        image: The name that records use: the path relative to the data set's folder (or as the table gives
            it) with "/" separators, or a made-up one such as "digits/0123". Unique within a data set.
        label: Index into the data set's ``class_names``.
        source: Where the pixels are; ``open_image`` takes it.
    """

    image: str
    label: int
    source: Source


@dataclass(frozen=True)
class Dataset:
    """A classification task as it was found, before any few-shot sampling.

    Args:
        name: Folder, table or task name.
        class_names: As written on disk; ``prompts`` turns "_" into a space.
        train: Training pool in file order. Never shuffled: the few-shot sampling depends on the order. Empty
            where the data set is for testing only.
        val: Validation images; empty where the data set has no such split.
        test: Test images; a ``SealedTest`` while a run trains.
        prompt: Default prompt template, with one "{}".
        flip: Whether a mirror image keeps its class (false for digits).
        notes: What was decided or left out while loading, one plain sentence each.
        held_out: Whether the test images were taken from the training pool for want of a test split.
        found_names: The classes as the data itself names them, where ``class_names`` are other words; else empty.
    """

    name: str
    class_names: tuple[str, ...]
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: Sequence[Example]
    prompt: str = "a photo of a {}."
    flip: bool = True
    notes: tuple[str, ...] = ()
    held_out: bool = False
    found_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class FewShotSplit:
    """The images that one run uses; ``notes`` says where a class or a part came out short."""

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: Sequence[Example]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, by the name that records use, and the full error message."""

    image: str
    reason: str
