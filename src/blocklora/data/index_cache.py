"""What was learned about files before, kept between runs: folder listings and content hashes.

Both are keyed by path, and believed only while size, times and inode are the same: whoever replaces a file's content
can set the modification time back, but neither the time of the last change of the file's entry nor its inode. A file
or folder changed in the last two seconds is not remembered, since a second change could leave the same times. The cache
is one SQLite file in ``cache_folder()``; where it cannot be read or written, everything is simply read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from blocklora.core.errors import DataError, ImageError
from blocklora.core.files import user_path
from blocklora.core.resources import available_resources

__all__ = ["cache_folder", "digests", "listings"]

_FRESH_NS = 2 * 10**9
_MOST_WORKERS = 8


def cache_folder() -> Path:
    """Return where caches go: ``BLOCKLORA_CACHE``, or ``blocklora`` in the system's place for caches.

    Who has no home, as in some containers, gets the system's folder for temporary files.
    """
    if chosen := os.environ.get("BLOCKLORA_CACHE"):
        return user_path(chosen)
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir())
    usual = home if sys.platform == "win32" else home / ".cache"
    return Path(given or usual) / "blocklora"


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
    with ThreadPoolExecutor(min(_MOST_WORKERS, available_resources().cores)) as pool:
        stamps = list(pool.map(_stamp, names))
        known = _load(kind, names)
        found = {name: known[name][1] for name, stamp in zip(names, stamps, strict=True)
                 if stamp and name in known and known[name][0] == stamp.text}  # fmt: skip
        todo = {name: path for name, path in zip(names, paths, strict=True) if name not in found}
        found |= zip(todo, pool.map(work, todo.values()), strict=True)
        now = time.time_ns()
        after = dict(zip(todo, pool.map(_stamp, todo), strict=True))
    before = dict(zip(names, stamps, strict=True))
    steady = [
        (kind, _key(name), stamp.text, found[name])
        for name, stamp in after.items()
        if stamp is not None and stamp == before[name] and now - stamp.changed > _FRESH_NS
    ]
    _store(steady)
    return [found[name] for name in names]


class _Stamp(NamedTuple):
    """What tells one state of a file or folder from another: ``text``; and when it last changed, in nanoseconds."""

    text: str
    changed: int


def _stamp(name: str) -> _Stamp | None:
    """Return the stamp of a file or folder; None where it is gone."""
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return _Stamp(" ".join(map(str, facts)), max(status.st_mtime_ns, status.st_ctime_ns))


def _key(name: str) -> str:
    """Write a path as text that SQLite takes, also where it is no Unicode."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _open() -> sqlite3.Connection:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "index.sqlite", timeout=5)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS stamped (kind TEXT, path TEXT, stamp TEXT, value TEXT, PRIMARY KEY (kind, path))"
    )
    return connection


def _load(kind: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Look paths up, a few hundred at a time, for stamps and values; a cache that cannot be read knows nothing."""
    known: dict[str, tuple[str, str]] = {}
    keys = {_key(name): name for name in names}
    try:
        with closing(_open()) as connection:
            for part in (list(keys)[start : start + 500] for start in range(0, len(keys), 500)):
                marks = ", ".join("?" * len(part))
                query = f"SELECT path, stamp, value FROM stamped WHERE kind = ? AND path IN ({marks})"
                for path, stamp, value in connection.execute(query, (kind, *part)):
                    known[keys[path]] = (stamp, value)
    except (OSError, sqlite3.Error):
        return {}
    return known


def _store(rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Remember what was found; a cache that cannot be written forgets it."""
    if not rows:
        return
    try:
        with closing(_open()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO stamped VALUES (?, ?, ?, ?)", rows)
    except (OSError, sqlite3.Error):
        return
