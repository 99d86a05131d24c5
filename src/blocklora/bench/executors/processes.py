"""Worker processes on this machine: each does one item after the other, and one that dies fails only its own item.

The standard pools do not fit: when one process of a ``ProcessPoolExecutor`` is killed (by the system for want of
memory, for example), all items that are not done fail, and nothing says which of them was the reason. Here every
process has a pipe of its own; when a pipe ends without an answer, the item that its process was at has failed.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from blocklora.bench.executors.executor import OnStep, Outcome, WorkItem

__all__ = ["NEED_BYTES", "run_in_processes", "workers_for"]

GIB = 1024**3
NEED_BYTES = 3 * GIB  # Python and its libraries 1 GiB, decoded training images at most 2 GiB
_STOP_SECONDS = 5.0


@dataclass
class _Worker:
    """One process, and the item that it is at."""

    process: Any
    pipe: Connection
    item: WorkItem | None = None
    began: float = field(default_factory=time.monotonic)


def workers_for(n_cores: int, free_bytes: int, n_gpus: int, weight_bytes: int = 0) -> int:
    """Return how many processes suit a machine: one a GPU; else one a core, while each has memory enough.

    Args:
        n_cores: Physical cores.
        free_bytes: Memory that is free.
        n_gpus: GPUs that will be used; 0 for a CPU.
        weight_bytes: The largest model's weights, in float32. Each process holds them, and on a CPU about as
            much again twice for gradients, optimizer state and activations.
    """
    return n_gpus or max(1, min(n_cores, free_bytes // (NEED_BYTES + 3 * weight_bytes)))


def run_in_processes(
    contents: Sequence[Any],
    work: Callable[..., Any],
    settings: Any,
    n_workers: int,
    log: Path,
    *,
    on_step: OnStep,
    attempts: int = 2,
) -> Generator[Outcome, None, None]:
    """Do all items, and yield what became of each as it ends.

    An item that fails is tried again at once, in a new process; after ``attempts`` its error is the outcome. When the
    iterator is closed, or Ctrl-C comes, all processes end.

    Args:
        contents: What to do; must be picklable.
        work: A module's function ``work(settings, n, content, attempt, tell)`` in worker n.
        settings: Given to every call.
        n_workers: How many processes.
        log: A file for what the processes print; it is appended to.
        attempts: How often an item is tried.
        on_step: Progress callback: worker, content, phase, done and total, as ``tell(phase, done, total)`` gives them.
    """
    todo = deque(WorkItem(content) for content in contents)
    workers: dict[int, _Worker] = {}
    try:
        while todo or any(worker.item for worker in workers.values()):
            _hand_out(todo, workers, n_workers, lambda n: _start(n, work, settings, log))
            for n, item, message in _messages(workers):
                seconds = time.monotonic() - workers[n].began
                if message[0] == "step":
                    on_step(n, item.content, *message[1:])
                elif message[0] == "done":
                    workers[n].item = None
                    yield Outcome(item, answer=message[1], seconds=seconds)
                else:
                    _end(workers.pop(n))  # what it left in memory might fail the next item too
                    if item.attempt < attempts:
                        todo.appendleft(WorkItem(item.content, item.attempt + 1))
                    else:
                        yield Outcome(item, error=message[1], trace=message[2], seconds=seconds)
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            _end(worker)


def _hand_out(
    todo: deque[WorkItem], workers: dict[int, _Worker], n_workers: int, start: Callable[[int], _Worker]
) -> None:
    """Give an item to every worker that has none, and start the workers that are not there."""
    for n in range(n_workers):
        if todo and n not in workers:
            workers[n] = start(n)
        if todo and workers[n].item is None:
            worker, item = workers[n], todo.popleft()
            worker.item, worker.began = item, time.monotonic()
            with suppress(OSError):  # that the worker is dead is noticed when its pipe is read
                worker.pipe.send((item.content, item.attempt))


def _messages(workers: dict[int, _Worker]) -> list[tuple[int, WorkItem, tuple[Any, ...]]]:
    """Wait for news: one message of every worker that has some, with the item that it is at."""
    busy = {worker.pipe: (n, worker.item) for n, worker in workers.items() if worker.item}
    news = []
    for pipe in wait(list(busy), timeout=1.0):
        n, item = busy[pipe]  # type: ignore[index]
        try:
            message = workers[n].pipe.recv()
        except (EOFError, OSError):
            workers[n].process.join(_STOP_SECONDS)
            message = ("failed", _why(workers[n].process.exitcode), "")
        news.append((n, item, message))
    return news


def _why(code: int | None) -> str:
    """Say how a process ended that gave no answer."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        hint = "; the system does this when memory runs out: use fewer --workers" if name == "SIGKILL" else ""
        return f"the process was killed by {name}{hint}"
    return f"the process ended without an answer (exit code {code})"


def _start(n: int, work: Callable[..., Any], settings: Any, log: Path) -> _Worker:
    """Start a process. From its first instruction on it ignores Ctrl-C, which the parent handles."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, n, work, settings, log), daemon=True)
    with _ignoring_interrupts():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    """End a process, gently first."""
    worker.process.terminate()
    worker.process.join(_STOP_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.pipe.close()
    worker.process.close()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; a process that is started meanwhile inherits that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, n: int, work: Callable[..., Any], settings: Any, log: Path) -> None:
    """Do items until the parent is gone; what they print goes to the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = 0.0

    def tell(phase: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.3 or done >= total:
            told = time.monotonic()
            pipe.send(("step", phase, done, total))

    while True:
        try:
            content, attempt = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("done", work(settings, n, content, attempt, tell))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}", traceback.format_exc()))
        else:
            pipe.send(answer)


def _end_with_parent() -> None:
    """End this process when its parent is gone, however that came about."""
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
