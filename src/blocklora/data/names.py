"""Find a file by a name that may be written otherwise than on the disk: in another Unicode form, or with escapes."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from blocklora.core.words import printable

__all__ = ["Finder", "same_name"]


def same_name(name: str) -> str:
    """Return a form that all spellings of a name share: composed Unicode, and escapes for what is none."""
    return unicodedata.normalize("NFC", printable(name))


class Finder:
    """Finds files below folders; a folder is listed at most once, and only if a name is not there as written."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """Return the file that a name means.

        Args:
            folder: Where relative names begin.
            name: A path with the system's separators or "/"; an absolute one ignores the folder.

        Returns:
            The file, or None where there is none.
        """
        path = folder / name
        if os.path.isfile(path):
            return path
        place = Path(path.anchor) if Path(name).is_absolute() else folder
        for piece in Path(name).relative_to(place if Path(name).is_absolute() else "").parts:
            if not os.path.lexists(place / piece):
                piece = self._names(place).get(same_name(piece), piece)
            place /= piece
        return place if os.path.isfile(place) else None

    def _names(self, folder: Path) -> dict[str, str]:
        """Return what a folder holds, by the form that all spellings share."""
        if folder not in self._listed:
            try:
                self._listed[folder] = {same_name(name): name for name in os.listdir(folder)}
            except (OSError, ValueError):
                self._listed[folder] = {}
        return self._listed[folder]
