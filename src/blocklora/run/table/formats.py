"""Write the rows of a table as CSV, JSON lines or Parquet, one after the other; the file is whole or not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from blocklora.core.errors import ConfigError
from blocklora.core.files import write_stream
from blocklora.run.table.columns import Row

__all__ = ["check_format", "write_rows"]

Kinds = Mapping[str, Literal["text", "number"]]
_ROWS_AT_ONCE = 8192


def check_format(path: Path) -> None:
    """Raise unless a file's ending names a format that can be written here.

    Raises:
        ConfigError: The ending is another, or pyarrow is missing.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ConfigError(f"out '{path}': expected a name that ends in {', '.join(_WRITERS)}.")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigError(
                f"out '{path}': writing Parquet needs pyarrow: pip install 'blocklora[data]', or name a .csv or "
                ".jsonl file."
            ) from None


def write_rows(path: Path, kinds: Kinds, rows: Iterable[Row]) -> None:
    """Write a table in the format that the file's ending names.

    Args:
        path: The file, in a folder that exists; an older one of that name is replaced.
        kinds: The columns, in their order, and what each holds.
        rows: A cell for each column.
    """
    with write_stream(path) as stream:
        _WRITERS[path.suffix.lower()](stream, kinds, iter(rows))


def _csv(stream: BinaryIO, kinds: Kinds, rows: Iterator[Row]) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, list(kinds), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text.detach()


def _json_lines(stream: BinaryIO, kinds: Kinds, rows: Iterator[Row]) -> None:
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")


def _parquet(stream: BinaryIO, kinds: Kinds, rows: Iterator[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    types = {"text": pa.string(), "number": pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
    with parquet.ParquetWriter(stream, schema) as writer:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema))


_WRITERS: dict[str, Callable[[BinaryIO, Kinds, Iterator[Row]], None]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
