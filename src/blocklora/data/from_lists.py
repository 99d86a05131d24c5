"""A task made of images and labels in Python: the way in from lists and arrays, beside folders and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocklora.core.errors import DataError
from blocklora.data.classes import label_notes, number_notes, words_of
from blocklora.data.given import ImageLike, check_images, check_labels, name_of, source_of
from blocklora.data.types import Dataset, Example, Source

__all__ = ["dataset_from_lists", "labels_to_compare", "named_sources"]

_SHOWN = 3  # labels that a message names


def dataset_from_lists(
    images: Iterable[ImageLike], labels: Iterable[Any], class_names: Mapping[Any, str] | None, prompt: str
) -> tuple[Dataset, list[Any]]:
    """Return labelled images as a data set without a test part, and its N labels in the order of its classes.

    Args:
        images: M images, see ``check_images``.
        labels: M labels, see ``check_labels``.
        class_names: Words for some or all labels, where a label itself says nothing.
        prompt: The sentence that a class name stands in.

    Raises:
        DataError: There are no images, or images, labels or class names are not what they must be.
        ImageError: An image is none; it is named by its place.
    """
    sources = named_sources(images)
    given = check_labels(labels, len(sources))
    if not sources:
        raise DataError("images: the list is empty; expected images of two or more classes.")
    classes = sorted(set(given))
    words = words_of(classes, class_names)
    index = {label: place for place, label in enumerate(classes)}
    train = tuple(
        Example(name, index[label], source) for (name, source), label in zip(sources, given, strict=True)
    )
    notes = (*label_notes(Counter(words[example.label] for example in train)), *number_notes(words))
    return Dataset("images", words, train, val=(), test=(), prompt=prompt, notes=notes), classes


def named_sources(images: Iterable[ImageLike]) -> list[tuple[str, Source]]:
    """Return what messages call each image, and where its pixels are.

    Args:
        images: M images, see ``check_images``.

    Raises:
        DataError: They are no list.
        ImageError: An image is none; it is named by its place.
    """
    names = [(name_of(image, place), image) for place, image in enumerate(check_images(images))]
    return [(name, source_of(image, name)) for name, image in names]


def labels_to_compare(labels: Iterable[Any], known: NDArray[Any], n: int) -> list[Any]:
    """Return labels that the labels of a classifier can be compared with.

    Args:
        labels: M labels, see ``check_labels``; some may be of classes that the classifier does not know.
        known: The classifier's own labels (N,).
        n: How many images there are.

    Raises:
        DataError: There are none, or they are no labels, or are of another kind than the classifier's own.
    """
    given = check_labels(labels, n)
    if not given:
        raise DataError("images: the list is empty; expected at least one image to measure accuracy on.")
    if _kind(np.asarray(given)) != _kind(known):
        more = " and so on" if len(known) > _SHOWN else ""
        raise DataError(
            f"label 0 is {given[0]!r}, but the classifier's labels are {known[:_SHOWN].tolist()}{more}: expected "
            "labels of the same kind."
        )
    return given


def _kind(labels: NDArray[Any]) -> str:
    """Return whether labels are text, booleans or numbers."""
    return {"U": "text", "b": "booleans"}.get(labels.dtype.kind, "numbers")
