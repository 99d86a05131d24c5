"""What images a folder holds: the one filter of files, for training and for prediction."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.words import printable
from blocklora.data.images import IMAGE_ENDINGS
from blocklora.data.types import Unreadable

__all__ = ["Tree", "entries", "image_files", "scan", "walk"]

_IGNORED = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}


@dataclass
class Tree:
    """What a folder holds, all levels down.

    Attributes:
        root: The folder.
        images: Path pieces of each image below the root, sorted.
        others: How many other files there are of which ending.
        broken: Links that lead nowhere, by path below the root.
    """

    root: Path
    images: list[tuple[str, ...]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def loose(self) -> list[str]:
        """Return the images that lie directly in the folder."""
        return [pieces[0] for pieces in self.images if len(pieces) == 1]

    def child(self, name: str) -> Tree:
        """Return the part of the tree below one sub-folder."""
        inside = [pieces[1:] for pieces in self.images if pieces[0] == name and len(pieces) > 1]
        return Tree(self.root / name, inside)

    def children(self) -> list[str]:
        """Return the sub-folders that hold images."""
        return list(self.inner())

    def inner(self) -> dict[str, list[str]]:
        """Return the sub-folders that hold images, and the sub-folders with images in each of them."""
        found: dict[str, dict[str, None]] = {}
        for pieces in self.images:
            if len(pieces) > 1:
                inside = found.setdefault(pieces[0], {})
                if len(pieces) > 2:
                    inside[pieces[1]] = None
        return {child: list(inside) for child, inside in found.items()}

    def direct(self) -> set[str]:
        """Return the sub-folders in which images lie directly."""
        return {pieces[0] for pieces in self.images if len(pieces) == 2}


def image_files(folder: Path) -> list[Path]:
    """Return all images below a folder, by path; hidden files and what systems leave behind are left out.

    Raises:
        DataError: A folder cannot be listed.
    """
    return [folder.joinpath(*pieces) for pieces in scan(folder).images]


def scan(root: Path) -> Tree:
    """List a folder to its full depth, following symbolic links except those that lead back up.

    Raises:
        DataError: A folder cannot be listed.
    """
    tree = Tree(root)
    waiting: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), (os.path.realpath(root),))]
    while waiting:
        pieces, above = waiting.pop()  # path below root, real paths of the folder and all above it
        for entry in entries(root.joinpath(*pieces)):
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    waiting.append(((*pieces, entry.name), (*above, real)))
            else:
                _add_file(tree, (*pieces, entry.name), entry)
    tree.images.sort(key=lambda pieces: unicodedata.normalize("NFC", "/".join(pieces)))
    return tree


def walk(
    folder: Path, *, apart: Collection[str] = (), above: tuple[str, ...] = ()
) -> Iterator[Path | Unreadable]:
    """Yield what ``scan`` finds one by one, in the system's own order: memory does not grow with the number of images.

    Args:
        folder: Where to begin.
        apart: Real paths of folders that are left out.
        above: Real paths of the folders above.

    Yields:
        Images, and links with an image's ending that lead nowhere; folders that cannot be listed, with the reason.
    """
    above = (*above, os.path.realpath(folder))
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if _left_out(entry):
                    continue
                if not entry.is_dir():
                    ending = os.path.splitext(entry.name)[1].lower()
                    if ending in IMAGE_ENDINGS and (entry.is_file() or entry.is_symlink()):
                        yield folder / entry.name
                elif (real := os.path.realpath(entry.path)) not in above and real not in apart:
                    yield from walk(folder / entry.name, apart=apart, above=above)
    except OSError as error:
        yield Unreadable(printable(str(folder)), str(_unlisted(folder, error)))


def _add_file(tree: Tree, pieces: tuple[str, ...], entry: os.DirEntry[str]) -> None:
    """Sort one file into a tree."""
    ending = os.path.splitext(entry.name)[1].lower()
    if not entry.is_file() and entry.is_symlink():
        tree.broken.append("/".join(pieces))
    elif ending in IMAGE_ENDINGS and entry.is_file():
        tree.images.append(pieces)
    else:
        tree.others[ending] += 1


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what a folder holds, without hidden files and what systems leave behind.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not _left_out(entry)]
    except OSError as error:
        raise _unlisted(folder, error) from error


def _left_out(entry: os.DirEntry[str]) -> bool:
    """Return whether a file or folder is hidden, or something that systems leave behind."""
    return entry.name.startswith(".") or entry.name.lower() in _IGNORED


def _unlisted(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: this folder cannot be listed ({error.strerror}): make it readable")
