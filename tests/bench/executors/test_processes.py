"""Worker processes: every item has one outcome, whatever becomes of the process that was at it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.bench.executors.executor import Outcome
from blocklora.bench.executors.processes import GIB, run_in_processes, workers_for

WORK = """
import os, signal, sys, time
from pathlib import Path

def work(settings, n, content, attempt, tell):
    with open(Path(settings) / "attempts.txt", "a", encoding="utf-8") as stream:
        stream.write(f"{content}\\n")
    tell("training", 1, 2)
    if content == "raises":
        raise ValueError("no such luck")
    if content == "exits":
        sys.exit(3)
    if content == "killed":
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    if content == "once" and attempt == 1:
        os._exit(9)
    if content == "waits":
        time.sleep(600)
    print("printed by", content, flush=True)
    return f"{content}!"
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Outcome]]:
    """Do items with the functions of a module that other processes can import."""
    (tmp_path / "work_of_test.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    work = __import__("work_of_test").work

    def run(*contents: Any, n_workers: int = 2, steps: list[Any] | None = None) -> Any:
        told = steps if steps is not None else []
        log = tmp_path / "workers.log"
        return run_in_processes(
            contents, work, str(tmp_path), n_workers, log, on_step=lambda *step: told.append(step)
        )

    return run


def test_every_item_has_one_outcome(run: Callable[..., Any], tmp_path: Path) -> None:
    steps: list[Any] = []
    outcomes = {
        o.item.content: o for o in run("a", "raises", "b", "killed", "exits", "once", "c", steps=steps)
    }
    assert {name for name, o in outcomes.items() if o.error is None} == {"a", "b", "c", "once"}
    assert outcomes["a"].answer == "a!"
    assert outcomes["once"].item.attempt == 2
    assert outcomes["raises"].error == "ValueError: no such luck"
    assert "work_of_test.py" in outcomes["raises"].trace
    assert "exit code 3" in str(outcomes["exits"].error)
    assert "killed by SIGKILL" in str(outcomes["killed"].error)
    assert "use fewer --workers" in str(outcomes["killed"].error)
    tried = (tmp_path / "attempts.txt").read_text(encoding="utf-8").split()
    assert {name: tried.count(name) for name in set(tried)} == {
        "a": 1, "b": 1, "c": 1, "raises": 2, "killed": 2, "exits": 2, "once": 2,
    }  # fmt: skip
    assert {step[1:] for step in steps} >= {("a", "training", 1, 2)}
    assert "printed by c" in (tmp_path / "workers.log").read_text(encoding="utf-8")
    assert not multiprocessing.active_children()


def test_leaving_early_ends_all_processes(run: Callable[..., Any]) -> None:
    with closing(run("a", "waits", "b")) as outcomes:
        assert next(outcomes).answer == "a!"
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    """A bench that is killed leaves no worker behind."""
    (tmp_path / "work_of_test.py").write_text(WORK, encoding="utf-8")
    main = tmp_path / "main.py"
    main.write_text(
        "import sys; from pathlib import Path\n"
        "from work_of_test import work\n"
        "from blocklora.bench.executors.processes import run_in_processes\n"
        "if __name__ == '__main__':\n"
        "    say = lambda *step: print('at work', flush=True)\n"
        "    list(run_in_processes(['waits'], work, sys.argv[1], 1, Path(sys.argv[1]) / 'log', on_step=say))\n",
        encoding="utf-8",
    )
    parent = subprocess.Popen([sys.executable, str(main), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "at work\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    os.kill(parent.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    parent.wait()
    parent.stdout.close()
    assert not psutil.wait_procs(children, timeout=20)[1]


@given(cores=st.integers(1, 64), free=st.integers(0, 2**40), weights=st.integers(0, 2**32))
def test_workers_fit_into_cores_and_memory(cores: int, free: int, weights: int) -> None:
    n = workers_for(cores, free, 0, weights)
    assert 1 <= n <= cores
    assert n == 1 or n * (3 * GIB + 3 * weights) <= free
    assert workers_for(cores, free, 4, weights) == 4
