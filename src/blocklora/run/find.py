"""Find the images that a command line names: files, and the images below folders. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.data import IMAGE_ENDINGS, Unreadable, image_files

__all__ = ["Found", "find_images"]


@dataclass(frozen=True)
class Found:
    """Images to classify.

    Attributes:
        files: Each once, in the order in which they were named, folders sorted.
        without: Folders that hold no images, with the reason.
        repeated: How many files were named again.
    """

    files: list[Path]
    without: list[Unreadable]
    repeated: int


def find_images(paths: Sequence[Path]) -> Found:
    """Gather files, and the images below folders; what systems and editors leave there is left out, as in ``fit``.

    Args:
        paths: Files and folders. A file is taken as it is, also one that is not there.

    Raises:
        DataError: There is no image at all.
    """
    files: dict[str, Path] = {}
    without, named = [], 0
    for path in paths:
        found = image_files(path) if path.is_dir() else [path]
        named += len(found)
        for file in found:
            files.setdefault(os.path.normcase(os.path.abspath(file)), file)
        if not found:
            endings = ", ".join(sorted(IMAGE_ENDINGS))
            without.append(Unreadable(str(path), f"{path}: this folder holds no images ({endings})."))
    if not files:
        raise DataError(without[0].reason)
    return Found(list(files.values()), without, named - len(files))
