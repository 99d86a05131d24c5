"""What was learned about files before, kept between runs: folder listings and content hashes.

Both are keyed by path, and believed only while size and modification time are the same. A file or folder changed in
the last two seconds is not remembered, since a second change could leave the same time. The cache is one SQLite file
in ``cache_folder()``; where it cannot be read or written, everything is simply read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from blocklora.core.errors import DataError, ImageError

__all__ = ["cache_folder", "digests", "listings"]

_FRESH_NS = 2 * 10**9
_WORKERS = min(8, os.cpu_count() or 1)


def cache_folder() -> Path:
    """Return where caches go: ``BLOCKLORA_CACHE``, or ``blocklora`` in the system's place for caches."""
    if chosen := os.environ.get("BLOCKLORA_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "blocklora"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blocklora"


def listings(folders: Sequence[Path]) -> list[list[str]]:
    """List the names in folders, files and sub-folders alike, in plain code-point order, without hidden ones.

    Args:
        folders: Existing folders.

    Returns:
        The sorted names of each.

    Raises:
        DataError: A folder cannot be listed.
    """
    return [json.loads(text) for text in _remembered("listing", folders, _listing)]


def digests(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of the content of each file.

    Raises:
        ImageError: A file cannot be read.
    """
    return _remembered("sha256", files, _sha256)


def _listing(folder: Path) -> str:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder}: this folder cannot be listed ({error.strerror}): make it readable"
        ) from error
    return json.dumps(names)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise ImageError(
            f"{file}: the file can no longer be read ({error.strerror}): put it back, or load the data anew"
        ) from error
    return digest.hexdigest()


def _remembered(kind: str, paths: Sequence[Path], work: Callable[[Path], str]) -> list[str]:
    """Return what ``work`` gives for each path, from the cache where the path is as it was."""
    names = [os.path.abspath(path) for path in paths]
    with ThreadPoolExecutor(_WORKERS) as pool:
        stamps = list(pool.map(_stamp, names))
        known = _load(kind, names)
        found = {name: known[name][1] for name, stamp in zip(names, stamps, strict=True)
                 if name in known and known[name][0] == stamp}  # fmt: skip
        todo = {name: path for name, path in zip(names, paths, strict=True) if name not in found}
        found |= zip(todo, pool.map(work, todo.values()), strict=True)
        now = time.time_ns()
        after = dict(zip(todo, pool.map(_stamp, todo), strict=True))
    before = dict(zip(names, stamps, strict=True))
    steady = [name for name in todo if after[name] == before[name] and now - after[name][1] > _FRESH_NS]
    _store([(kind, name, *after[name], found[name]) for name in steady])
    return [found[name] for name in names]


def _stamp(name: str) -> tuple[int, int]:
    """Return size and modification time in nanoseconds; of what is gone, nothing that matches."""
    try:
        status = os.stat(name)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _open() -> sqlite3.Connection:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "index.sqlite", timeout=5)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS known (kind TEXT, path TEXT, size INTEGER, mtime INTEGER, value TEXT, "
        "PRIMARY KEY (kind, path))"
    )
    return connection


def _load(kind: str, names: Sequence[str]) -> dict[str, tuple[tuple[int, int], str]]:
    """Look paths up, a few hundred at a time; a cache that cannot be read knows nothing."""
    known: dict[str, tuple[tuple[int, int], str]] = {}
    try:
        with closing(_open()) as connection:
            for start in range(0, len(names), 500):
                part = names[start : start + 500]
                marks = ", ".join("?" * len(part))
                query = f"SELECT path, size, mtime, value FROM known WHERE kind = ? AND path IN ({marks})"
                for path, size, mtime, value in connection.execute(query, (kind, *part)):
                    known[path] = ((size, mtime), value)
    except (OSError, sqlite3.Error, UnicodeError):
        return {}
    return known


def _store(rows: Sequence[tuple[str, str, int, int, str]]) -> None:
    """Remember what was found; a cache that cannot be written forgets it."""
    if not rows:
        return
    try:
        with closing(_open()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error, UnicodeError):
        return
