"""Images wherever pyarrow's file systems reach: folders and buckets by URI, and Parquet tables of paths or of contents.

An image goes by its path, by its URI, or by its place in a table; only these travel, never pixels.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blocklora.core.errors import ConfigError, DataError
from blocklora.core.files import write_stream
from blocklora.core.threads import read_ahead
from blocklora.core.words import printable
from blocklora.data import IMAGE_ENDINGS, Source, Unreadable
from blocklora.run.table.listing import listed

__all__ = ["is_uri", "open_places", "write_places"]

Place = str | Mapping[str, Any]
"""A path, a URI, a row of a table ({"table", "group", "row"}), or what cannot be read ({"image", "reason"})."""


def is_uri(name: str) -> bool:
    """Return whether a name is a URI, such as s3://bucket/folder."""
    return "://" in name


def write_places(path: Path, inputs: Iterable[str]) -> int:
    """Write a line of JSON for each image, and return how many there are.

    Args:
        path: The file to write; it is whole or not there.
        inputs: Files and folders, URIs of such, and Parquet tables with a column ``image``.

    Raises:
        DataError: A table has no such column, or a URI leads nowhere.
        ConfigError: No file system is known for a URI.
    """
    n = 0
    with write_stream(path) as stream:
        for place in _places(list(inputs)):
            stream.write(json.dumps(place).encode("ascii") + b"\n")
            n += 1
    return n


def open_places(places: Iterable[Place]) -> Iterator[tuple[str, Source | Unreadable]]:
    """Yield the name of each image, and what it is read from; contents of URIs are fetched ahead in threads."""
    yield from read_ahead(_open, places, ahead=64)


def _places(inputs: list[str]) -> Iterator[Place]:
    """Yield every image."""
    local = [Path(one) for one in inputs if not is_uri(one) and not one.endswith(".parquet")]
    yield from listed(local)
    for one in inputs:
        if one.endswith(".parquet"):
            yield from _of_table(one)
        elif is_uri(one):
            yield from _of_uri(one)


def _of_uri(uri: str) -> Iterator[str]:
    """Yield the URIs of the images below one."""
    from pyarrow.fs import FileSelector, FileType

    system, inside = _system(uri)
    start = uri[: len(uri) - len(inside)] if uri.endswith(inside) else f"{urlsplit(uri).scheme}://"
    try:
        if system.get_file_info(inside).type == FileType.File:
            yield uri
            return
        found = system.get_file_info(FileSelector(inside, recursive=True))
    except OSError as error:
        raise DataError(f"{uri}: cannot be listed ({error}); check the address and your rights.") from error
    for info in found:
        below = info.path[len(inside) :]
        ending = f".{info.extension.lower()}"
        if info.type == FileType.File and ending in IMAGE_ENDINGS and "/." not in f"/{below.lstrip('/')}":
            yield start + info.path


def _of_table(name: str) -> Iterator[Place]:
    """Yield the rows of a Parquet table: the paths in its column image, or the places of contents."""
    from pyarrow import ArrowException

    folder = name.rpartition("/")[0]
    try:
        with _parquet(name) as table:
            if "image" not in table.schema_arrow.names:
                raise DataError(f"{name}: expected a column 'image', of paths, URIs or contents.")
            for group in range(table.num_row_groups):
                for row, cell in enumerate(table.read_row_group(group, columns=["image"])["image"]):
                    value = cell.as_py()
                    if isinstance(value, str):
                        absolute = is_uri(value) or value.startswith("/") or not folder
                        yield value if absolute else f"{folder}/{value}"
                    else:
                        yield {"table": name, "group": group, "row": row}
    except (ArrowException, OSError) as error:
        raise DataError(f"{name}: the table cannot be read as Parquet ({error}); save it anew.") from error


def _open(place: Place) -> tuple[str, Source | Unreadable]:
    """Return the name of an image, and what it is read from."""
    if isinstance(place, str):
        name = printable(place)
        return name, (_fetch(name, place) if is_uri(place) else Path(place))
    if "reason" in place:
        return place["image"], Unreadable(**place)
    name = f"{printable(place['table'])}#{place['group']}.{place['row']}"
    try:
        cell = _group(place["table"], place["group"])[place["row"]].as_py()
    except OSError as error:
        return name, Unreadable(name, f"{name}: cannot be read ({error}).")
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        return name, Unreadable(name, f"{name}: this cell holds no image.")
    return name, content


def _fetch(name: str, uri: str) -> bytes | Unreadable:
    """Read a file by its URI."""
    try:
        system, inside = _system(uri)
        with system.open_input_stream(inside) as stream:
            content: bytes = stream.read()
            return content
    except OSError as error:
        return Unreadable(name, f"{name}: cannot be read ({printable(str(error))}).")


def _system(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI, and the path inside of it."""
    parts = urlsplit(uri)
    system, start = _file_system(
        f"{parts.scheme}://{parts.netloc}/" if parts.netloc else f"{parts.scheme}:///"
    )
    return system, f"{start.rstrip('/')}{parts.path}" if parts.netloc else parts.path


@functools.cache
def _file_system(root: str) -> tuple[Any, str]:
    """Return a file system and where it begins; each is opened once."""
    try:
        from pyarrow.fs import FileSystem
    except ImportError:
        raise ConfigError(f"{root}: needs pyarrow: pip install 'blocklora[data]'.") from None
    try:
        system, start = FileSystem.from_uri(root)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{root}: no file system is known for it ({error}).") from error
    return system, str(start)


def _parquet(name: str) -> Any:
    """Open a Parquet table."""
    import pyarrow.parquet as parquet

    if not is_uri(name):
        return parquet.ParquetFile(name)
    system, inside = _system(name)
    return parquet.ParquetFile(system.open_input_file(inside))


@functools.lru_cache(maxsize=2)
def _group(name: str, group: int) -> Any:
    """Return the images of one row group."""
    with _parquet(name) as table:
        return table.read_row_group(group, columns=["image"])["image"]
