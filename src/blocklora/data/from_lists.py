"""A task made of images and labels in Python: the way in from lists and arrays, beside folders and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from blocklora.core.errors import DataError
from blocklora.data.classes import label_notes, number_notes, words_of
from blocklora.data.given import Picture, check_images, check_labels, name_of, source_of
from blocklora.data.types import Dataset, Example

__all__ = ["dataset_from_lists"]


def dataset_from_lists(
    images: Iterable[Picture], labels: Iterable[Any], class_names: Mapping[Any, str] | None, prompt: str
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
    listed = check_images(images)
    given = check_labels(labels, len(listed))
    if not listed:
        raise DataError("images: the list is empty; expected images of two or more classes.")
    classes = sorted(set(given))
    words = words_of(classes, class_names)
    index = {label: place for place, label in enumerate(classes)}
    names = [name_of(image, place) for place, image in enumerate(listed)]
    train = tuple(
        Example(name, index[label], source_of(image, name))
        for name, image, label in zip(names, listed, given, strict=True)
    )
    notes = (*label_notes(Counter(words[example.label] for example in train)), *number_notes(words))
    return Dataset("images", words, train, val=(), test=(), prompt=prompt, notes=notes), classes
