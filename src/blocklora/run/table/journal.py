"""The journal of a table: a line of JSON for each batch of rows, on the disk before the next batch begins.

A line counts once its newline is there; what a crash left behind the last newline is cut off. A second kind of line
says that a file of the last batch went to another place than its row says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blocklora.core.errors import RunError
from blocklora.run.table.columns import Row

__all__ = ["Journal"]

_ROWS = "rows"


class Journal:
    """Rows that are done.

    Args:
        path: The file; it is made if need be, and what a crash left behind its last newline is cut off.
        moved: The column that says where a file went.

    Attributes:
        n_rows: How many rows there are.
        last: The rows of the last batch.
    """

    def __init__(self, path: Path, moved: str | None) -> None:
        self._path, self._moved = path, moved
        path.touch()
        self._cut_torn_line()
        self.n_rows, self.last = 0, []
        for batch in self._batches():
            self.n_rows += len(batch)
            self.last = batch

    def append(self, rows: Sequence[Row]) -> None:
        """Write a batch, and return when it is on the disk."""
        self._write({_ROWS: rows})
        self.n_rows += len(rows)
        self.last = list(rows)

    def amend(self, place: int, moved_to: str | None) -> None:
        """Say that the file of a row of the last batch goes to another place, or nowhere."""
        assert self._moved
        self._write({"place": place, "moved_to": moved_to})
        self.last[place][self._moved] = moved_to

    def rows(self) -> Iterator[Row]:
        """Yield all rows, reading them one batch after the other."""
        for batch in self._batches():
            yield from batch

    def _batches(self) -> Iterator[list[Row]]:
        """Yield every batch, as amended."""
        batch: list[Row] | None = None
        with open(self._path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    content = json.loads(line)
                    if _ROWS not in content:
                        assert batch is not None
                        batch[content["place"]][str(self._moved)] = content["moved_to"]
                        continue
                except (ValueError, TypeError, KeyError, IndexError, AssertionError):
                    raise RunError(
                        f"{self._path}: line {number} is damaged; delete the folder {self._path.parent} to begin anew."
                    ) from None
                if batch is not None:
                    yield batch
                batch = content[_ROWS]
        if batch is not None:
            yield batch

    def _write(self, content: Any) -> None:
        line = json.dumps(content, allow_nan=False).encode("ascii") + b"\n"
        with open(self._path, "ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def _cut_torn_line(self) -> None:
        """Remove what stands behind the last newline."""
        with open(self._path, "r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            whole = end
            while whole > 0:  # from the end, as the file may be large
                start = max(0, whole - 65536)
                stream.seek(start)
                found = stream.read(whole - start).rfind(b"\n")
                if found >= 0:
                    whole = start + found + 1
                    break
                whole = start
            if whole < end:
                stream.truncate(whole)
                os.fsync(stream.fileno())
