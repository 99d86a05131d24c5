"""What a bench keeps: one JSON line for each finished run, and the plan that says which runs there should be.

RESULTS holds `runs.jsonl` and `plan.json`; `features/`, which may be deleted; and while a bench works `running/`, with
unfinished RUN folders.
One file of lines, and not one file a run: only the process that leads a bench writes it, one line at a time, so
it is easy to keep whole, to read, to compare and to commit, at thousands of runs as well. A line counts once
its newline is on the disk; what a crash left behind the last newline is cut off before the next line is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from blocklora.core.errors import RunError
from blocklora.core.files import write_json

__all__ = ["Record", "Store", "read_plan", "read_records"]

Record = dict[str, Any]
RUNS, PLAN, LOCK = "runs.jsonl", "plan.json", ".lock"


class Store:
    """A RESULTS folder that one bench writes to.

    Attributes:
        folder: Where it is.
        records: The last line of every key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / RUNS
        self._cut_torn_line()
        self.records = read_records(folder) if self._file.exists() else {}

    def append(self, record: Record) -> None:
        """Write a line, and return when it is on the disk."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with open(self._file, "ab") as stream:
            stream.write(line.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        self.records[record["key"]] = record

    def write_plan(self, plan: Sequence[dict[str, Any]]) -> None:
        """Say which runs there should be; an older plan is replaced."""
        write_json(self.folder / PLAN, list(plan))

    def _cut_torn_line(self) -> None:
        """Remove what stands behind the last newline."""
        if self._file.exists():
            content = self._file.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with open(self._file, "r+b") as stream:
                    stream.truncate(whole)
                    os.fsync(stream.fileno())


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Make or open a RESULTS folder for one bench.

    Raises:
        RunError: The folder is something else, a line is damaged, or another bench is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: this is a file; --out takes a folder.")
    if (
        folder.exists()
        and any(folder.iterdir())
        and not any((folder / name).exists() for name in (RUNS, PLAN, LOCK))
    ):
        raise RunError(f"{folder}: this folder is not empty and holds no results; choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{folder}: another bench is at work there; wait for it, or choose another --out."
        ) from error
    try:
        yield Store(folder)
    finally:
        lock.release()


def read_records(folder: Path) -> dict[str, Record]:
    """Read the last whole line of every key; a last line without its newline is passed over.

    Raises:
        RunError: The folder holds no results, or a line in it is damaged.
    """
    path = folder / RUNS
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); make results with 'blocklora bench'."
        ) from error
    records: dict[str, Record] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records[record["key"]] = record
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: line {number} is damaged; delete it, and run the bench again."
            ) from error
    return records


def read_plan(folder: Path) -> list[dict[str, Any]]:
    """Read which runs there should be.

    Raises:
        RunError: There is no plan, or it is damaged.
    """
    path = folder / PLAN
    try:
        plan: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); make results with 'blocklora bench'.") from error
    return plan
