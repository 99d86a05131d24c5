"""The listing of a table: the images to answer, found once and kept on the disk, a line of JSON each.

A row of the table belongs to a line of the listing, so that the number of rows says where to go on. Lines are read
and written one by one: memory does not grow with their number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from blocklora.core.files import write_stream
from blocklora.core.shards import Shard
from blocklora.data import Unreadable
from blocklora.data.scan import walk

__all__ = ["listed", "read_listing", "write_listing"]


def write_listing(path: Path, inputs: Sequence[Path], shard: Shard | None = None) -> int:
    """List images, each once, and return how many there are.

    Args:
        path: The file to write; it is whole or not there.
        inputs: Files and folders. A file is taken as it is, also one that is not there; below folders what systems and
            editors leave there is left out, as in ``fit``.
        shard: Which images to take, by their paths below the folder that was named.
    """
    n = 0
    with write_stream(path) as stream:
        for line in listed(inputs, shard):
            stream.write(json.dumps(line).encode("ascii") + b"\n")  # escapes stand for what is no UTF-8
            n += 1
    return n


def listed(inputs: Sequence[Path], shard: Shard | None = None) -> Iterator[str | dict[str, str]]:
    """Yield the lines of a listing: a path, or what cannot be listed and why; arguments are ``write_listing``'s."""
    for found in _distinct(inputs, shard):
        yield str(found) if isinstance(found, Path) else {"image": found.image, "reason": found.reason}


def read_listing(path: Path, start: int = 0, end: int | None = None) -> Iterator[Path | Unreadable]:
    """Yield what stands in the lines from ``start`` up to ``end``, both counted from 0."""
    with open(path, "rb") as stream:
        for line in islice(stream, start, end):
            content = json.loads(line)
            yield Path(content) if isinstance(content, str) else Unreadable(**content)


def _distinct(inputs: Sequence[Path], shard: Shard | None) -> Iterator[Path | Unreadable]:
    """Yield every image once, though a file or folder is named twice, or lies in another that is named."""
    files = {os.path.abspath(one): one for one in reversed(inputs) if not one.is_dir()}
    folders = {os.path.realpath(one): one for one in reversed(inputs) if one.is_dir()}
    for file in reversed(files.values()):
        if shard is None or shard.has(file.as_posix()):
            yield file
    for folder in reversed(folders.values()):
        for found in walk(folder, apart=folders):
            path = found if isinstance(found, Path) else Path(found.image)
            if isinstance(found, Path) and files and os.path.abspath(found) in files:
                continue
            if shard is None or shard.has(_below(folder, path)):
                yield found


def _below(folder: Path, path: Path) -> str:
    """Return a path below a folder, which is the same on every machine, wherever the folder is."""
    return os.path.relpath(path, folder).replace(os.sep, "/")
