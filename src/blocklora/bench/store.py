"""The RESULTS folder: one JSON line for each finished run, and the plan that says which runs there should be.

RESULTS holds `runs.jsonl` and `plan.json`; `features/`, which may be deleted; while a bench works `running/`, with
unfinished RUN folders; and, while it works or after a run failed, `workers.log` with what the processes printed.
One file of lines, and not one file for each run: only the process that leads a bench writes it, one line at a time,
so it is easy to keep whole, to read, to compare and to commit, at thousands of runs as well. A line counts once
its newline is on the disk; what a crash left behind the last newline is cut off before the next line is written.

Part 2 of 8 of a bench writes `runs.2-of-8.jsonl`, and has a lock, a log and unfinished folders of its own. All files of
lines are read together, so that nothing need be merged; written one behind the other into one file they are the same.
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
from blocklora.core.shards import Shard

__all__ = ["ResultsFolder", "open_results", "read_plan", "read_records"]

_RUNS, PLAN, LOCK = "runs", "plan.json", ".lock"
RUNS = f"{_RUNS}.jsonl"


class ResultsFolder:
    """A RESULTS folder that one bench, or one part of it, writes to.

    Attributes:
        folder: Where it is.
        running: Where unfinished RUN folders are.
        log: What the processes print.
        records: What counts of every key, other parts' lines included.
    """

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        self.folder = folder
        own = f".{shard.name}" if shard else ""
        self.running, self.log = folder / f"running{own}", folder / f"workers{own}.log"
        self._file = folder / f"{_RUNS}{own}.jsonl"
        self._cut_torn_line()
        self.records = read_records(folder) if _files(folder) else {}

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
def open_results(folder: Path, shard: Shard | None = None) -> Iterator[ResultsFolder]:
    """Make or open a RESULTS folder for one bench, or for one part of it, beside which others may be at work.

    Raises:
        RunError: The folder is something else, a line is damaged, or another bench is at work there.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: this is a file; --out takes a folder.")
    others = folder.exists() and any(folder.iterdir())
    if others and not _files(folder) and not (folder / PLAN).exists() and not any(folder.glob(f"{LOCK}*")):
        raise RunError(f"{folder}: this folder is not empty and holds no results; choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / (f"{LOCK}.{shard.name}" if shard else LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{folder}: another bench is at work there; wait for it, or choose another --out."
        ) from error
    try:
        yield ResultsFolder(folder, shard)
    finally:
        lock.release()


def read_records(folder: Path) -> dict[str, RunRecord]:
    """Read what counts of every key; a last line without its newline is passed over.

    A later line of a key counts more than an earlier one, but a failure in one file takes nothing from a finished run
    in another.

    Raises:
        RunError: The folder holds no results, or a line in it is damaged.
    """
    files = _files(folder)
    if not files:
        raise RunError(
            f"{folder / RUNS}: cannot be read (there is no such file); make results with 'blocklora bench'."
        )
    records: dict[str, RunRecord] = {}
    for path in files:
        for key, record in _read(path).items():
            if record.status == "ok" or key not in records:
                records[key] = record
    return records


def _files(folder: Path) -> list[Path]:
    """Return the files of lines in a folder: those of its parts, and then the one of a whole bench."""
    return sorted(folder.glob(f"{_RUNS}.*-of-*.jsonl")) + [path for path in [folder / RUNS] if path.exists()]


def _read(path: Path) -> dict[str, RunRecord]:
    """Read the last whole line of every key in a file."""
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
