"""Put files into folders of their classes: nothing is ever overwritten, and what was begun can be done again."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

__all__ = ["ClassFolders", "folder_names"]

_NO_LINKS = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK,
}  # fmt: skip
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')  # in a folder's name, on one system or another
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no folder's name on Windows


def folder_names(labels: Sequence[str]) -> dict[str, str]:
    """Return a name for each label's folder that every system takes, and that no two labels share.

    Examples:
        >>> folder_names(["cat", "n/a", "n:a", ".."])
        {'cat': 'cat', 'n/a': 'n_a', 'n:a': 'n_a-2', '..': '_'}
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        cleaned = _UNFIT.sub("_", label)[:80].strip(" .")
        if not cleaned or _DEVICES.fullmatch(cleaned):
            cleaned = f"_{cleaned}"
        name, n = cleaned, 2
        while name.casefold() in taken:
            name, n = f"{cleaned}-{n}", n + 1
        taken.add(name.casefold())
        names[label] = name
    return names


class ClassFolders:
    """Folders of classes below one folder.

    Args:
        root: Where they are made.
        way: Whether files are moved or copied. A link to an image is moved as a link to the same image.
    """

    def __init__(self, root: Path, way: Literal["move", "copy"]) -> None:
        self._root, self._way = root, way
        self._planned: set[Path] = set()

    def plan(self, source: Path, folder: str) -> Path:
        """Return where a file is to go: its own name, or with "-2", "-3", ... where that is taken."""
        target = self._root / folder / source.name
        n = 2
        while target in self._planned or os.path.lexists(target):
            target = self._root / folder / f"{source.stem}-{n}{source.suffix}"
            n += 1
        self._planned.add(target)
        return target

    def planned_are_done(self) -> None:
        """Forget what was planned: it is on the disk now."""
        self._planned.clear()

    def put(self, source: Path, target: Path, *, again: bool = False) -> bool:
        """Move or copy a file.

        Args:
            source: The file.
            target: What ``plan`` gave.
            again: Whether it may have been begun before, so that an equal file at ``target`` is this one.

        Returns:
            False where something else has come to stand at ``target``; the file is then where it was.

        Raises:
            FileNotFoundError: The file is gone.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if again and not os.path.lexists(source):
            return True
        if not (again and _same(source, target)):
            try:
                self._make(source, target)
            except FileExistsError:
                return False
        if self._way == "move":
            source.unlink()
        return True

    def _make(self, source: Path, target: Path) -> None:
        """Make ``target`` the same as ``source``, or raise FileExistsError."""
        if self._way == "move" and source.is_symlink():
            os.symlink(os.path.realpath(source), target)
            return
        if self._way == "move":
            try:
                os.link(source, target)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        own = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]  # others may copy to the same folder
        part = target.with_name(f".{own}.part")
        try:
            shutil.copy2(source, part)
            with open(part, "rb+") as stream:
                os.fsync(stream.fileno())
            _name(part, target)
        finally:
            part.unlink(missing_ok=True)


def _name(part: Path, target: Path) -> None:
    """Give a finished copy its name, or raise FileExistsError."""
    try:
        os.link(part, target)
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "is there already", str(target))
    os.rename(part, target)


def _same(source: Path, target: Path) -> bool:
    """Return whether two files are one, or equal to the last byte."""
    with suppress(OSError):
        return os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)
    return False
