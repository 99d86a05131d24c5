"""Gather the images to classify; torch is not needed for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.words import printable
from blocklora.data import IMAGE_ENDINGS, Unreadable
from blocklora.data.scan import scan

__all__ = ["FoundImages", "find_images"]


@dataclass(frozen=True)
class FoundImages:
    """Images to classify.

    Attributes:
        files: Each once, in the order in which they were named, folders sorted.
        without: Folders that hold no images or cannot be listed, with the reason.
        repeated: How many files were named again.
    """

    files: list[Path]
    without: list[Unreadable]
    repeated: int


def find_images(paths: Sequence[Path]) -> FoundImages:
    """Gather files, and the images below folders; what systems and editors leave there is left out, as in ``fit``.

    Args:
        paths: Files and folders. A file is taken as it is, also one that is not there.

    Raises:
        DataError: There is no image at all.
    """
    files: dict[str, Path] = {}
    without, named = [], 0
    for path in paths:
        try:
            found = _below(path) if path.is_dir() else [path]
        except DataError as error:
            without.append(Unreadable(printable(str(path)), str(error)))
            continue
        named += len(found)
        for file in found:
            files.setdefault(os.path.normcase(os.path.abspath(file)), file)
        if not found:
            name, endings = printable(str(path)), ", ".join(sorted(IMAGE_ENDINGS))
            without.append(Unreadable(name, f"{name}: this folder holds no images ({endings})."))
    if not files:
        raise DataError(without[0].reason)
    return FoundImages(list(files.values()), without, named - len(files))


def _below(folder: Path) -> list[Path]:
    """Return the images below a folder, and the links that lead nowhere, which are to be named."""
    tree = scan(folder)
    links = [folder / link for link in tree.broken if Path(link).suffix.lower() in IMAGE_ENDINGS]
    return [*(folder.joinpath(*pieces) for pieces in tree.images), *links]
