"""The RESULTS folder: one JSON line for each finished run, and the plan that says which runs there should be.

RESULTS holds `runs.jsonl` and `plan.json`; `features/`, which may be deleted; while a bench works `running/`, with
unfinished RUN folders; and, while it works or after a run failed, `workers.log` with what the processes printed.
One file of lines, and not one file for each run: only the process that leads a bench writes it, one line at a time,
so it is easy to keep whole, to read, to compare and to commit, at thousands of runs as well. A line counts once
its newline is on the disk; what a crash left behind the last newline is cut off before the next line is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from blocklora.bench.records import PlanEntry, RunRecord
from blocklora.core.errors import RunError
from blocklora.core.files import write_json

__all__ = ["ResultsFolder", "open_results", "read_plan", "read_records"]

RUNS, PLAN, LOCK = "runs.jsonl", "plan.json", ".lock"


class ResultsFolder:
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

    def append(self, record: RunRecord) -> None:
        """Write a line, and return when it is on the disk."""
        line = json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False) + "\n"
        with open(self._file, "ab") as stream:
            stream.write(line.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        self.records[record.entry.key] = record

    def write_plan(self, plan: Sequence[PlanEntry]) -> None:
        """Say which runs there should be; an older plan is replaced."""
        write_json(self.folder / PLAN, [entry.to_json() for entry in plan])

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
def open_results(folder: Path) -> Iterator[ResultsFolder]:
    """Make or open a RESULTS folder for one bench.

    Raises:
        RunError: The folder is something else, a line is damaged, or another bench is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: this is a file; --out takes a folder.")
    others = folder.exists() and any(folder.iterdir())
    if others and not any((folder / name).exists() for name in (RUNS, PLAN, LOCK)):
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
        yield ResultsFolder(folder)
    finally:
        lock.release()


def read_records(folder: Path) -> dict[str, RunRecord]:
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
    records = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = RunRecord.from_json(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: line {number} is damaged; delete it, and run the bench again."
            ) from error
        records[record.entry.key] = record
    return records


def read_plan(folder: Path) -> list[PlanEntry]:
    """Read which runs there should be.

    Raises:
        RunError: There is no plan, or it is damaged.
    """
    path = folder / PLAN
    try:
        return [PlanEntry.from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
        raise RunError(f"{path}: cannot be read ({why}); make results with 'blocklora bench'.") from error
