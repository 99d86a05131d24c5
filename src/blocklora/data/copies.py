"""Copies among the images that a fit decodes anyway: the same pixels, whatever the bytes of their files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from blocklora.core.words import count
from blocklora.data.images import open_image
from blocklora.data.types import Example, Source

__all__ = ["Copies"]


class Copies:
    """Opens images, and remembers a digest of each one's pixels; threads may share it."""

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}  # by the source's id: sources in memory cannot be hashed

    def open(self, source: Source) -> Image.Image:
        """Read one image as ``open_image`` does.

        Raises:
            ImageError: It cannot be read.
        """
        image = open_image(source)
        self._digests[id(source)] = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
        return image

    def notes(
        self, train: Sequence[Example], val: Sequence[Example], class_names: Sequence[str]
    ) -> list[str]:
        """Say that images stand in two classes, or in training and validation: at most one sentence each.

        Args:
            train: Training images that were opened here.
            val: Validation images that were.
            class_names: In label order.
        """
        first: dict[bytes, Example] = {}
        pairs = [(one, first.setdefault(self._digests[id(one.source)], one)) for one in (*train, *val)]
        notes = []
        if twice := [(one, other) for one, other in pairs if one.label != other.label]:
            one, other = twice[0]
            notes.append(
                f"{count(len(twice), 'image')} {'has' if len(twice) == 1 else 'have'} the same content as an image of "
                f"another class, e.g. {one.image} ({class_names[one.label]!r}) and {other.image} "
                f"({class_names[other.label]!r}): keep each in one class"
            )
        trained = {self._digests[id(one.source)] for one in train}
        if seen := [one for one in val if self._digests[id(one.source)] in trained]:
            are = "validation image has" if len(seen) == 1 else "validation images have"
            other = first[self._digests[id(seen[0].source)]]
            notes.append(
                f"{len(seen)} {are} the same content as a training image, e.g. {seen[0].image} and {other.image}: what "
                "is chosen by validation is flattered; remove the copies"
            )
        return notes
