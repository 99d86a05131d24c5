"""Fill a table in processes that are killed at chosen points, one after the other; run by ``test_killed.py``.

    python killed_table.py RUN FOLDER OUT FEATURES MOVE_TO

Everything is imported once; each attempt is a fork, as starting Python for each would take most of the time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blocklora.run.load import load_run
from blocklora.run.predict import Asked
from blocklora.run.table import class_folders, features, fill, journal, listing, work

Point = tuple[Any, str, int, bool]  # where a function is, its name, at which call, and whether after it


def die(*_: Any) -> None:
    """End this process as the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(owner: Any, name: str, call: int, after: bool) -> None:
    """Make the n-th call of a function the last thing that this process does."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            die()
        answer = whole(*arguments, **more)
        if calls == call:
            die()
        return answer

    setattr(owner, name, dying)


def torn_line(self: Any, content: Any) -> None:
    """Write half of a line."""
    line = json.dumps(content).encode("ascii")
    with open(self._path, "ab") as stream:
        stream.write(line[: len(line) // 2])
    die()


POINTS: list[Point] = [
    (work, "write_listing", 1, False),
    (listing, "walk", 1, True),
    (work, "write_json", 1, False),
    (work, "write_json", 1, True),
    (fill, "FeatureRows", 1, True),
    (features.FeatureRows, "append", 1, True),
    (journal.Journal, "_write", 0, False),  # torn
    (journal.Journal, "append", 1, False),
    (journal.Journal, "append", 1, True),
    (class_folders.ClassFolders, "put", 1, True),
    (class_folders.ClassFolders, "_make", 2, True),
    (features.FeatureRows, "append", 2, True),
    (class_folders.ClassFolders, "_make", 7, True),
    (journal.Journal, "_write", 0, False),  # torn
    (features.FeatureRows, "finish", 1, False),
    (features.FeatureRows, "finish", 1, True),
    (fill, "write_rows", 1, True),
]


def attempt(order: work.TableOrder, point: Point | None) -> None:
    """Fill the table in this process, which may be killed."""
    if point is not None and point[2] == 0:
        setattr(point[0], point[1], torn_line)
    elif point is not None:
        kill_at(*point)
    with work.open_work(order) as opened:
        loaded = replace(load_run(order.run, device="cpu"), images_at_once=5)
        fill.fill_table(opened, loaded)


def main() -> None:
    """Attempt it until it ends, and print how each attempt ended."""
    run, folder, out, features_file, move_to = map(Path, sys.argv[1:])
    order = work.TableOrder(run, [folder], out, asked=Asked(top_k=2), features=features_file, move_to=move_to)
    torch.set_num_threads(1)
    load_run(run, device="cpu")  # imports what a run needs
    ends = []
    for point in [*POINTS, None]:
        child = os.fork()
        if not child:
            try:
                attempt(order, point)
            except BaseException as error:
                print(f"{point}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ends.append(os.waitstatus_to_exitcode(status))
        if out.exists() and not order.folder.exists():
            break
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
