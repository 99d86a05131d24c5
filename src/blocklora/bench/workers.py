"""Worker processes that do jobs one after the other, and whose death is an answer like any other.

The standard pools do not fit: when one process of a ``ProcessPoolExecutor`` is killed (by the system for want of
memory, for example), all of its jobs fail, and nobody is told whose fault it was. Here every process has a pipe of
its own; a pipe that ends without an answer is the failure of the one job that it was at.
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

__all__ = ["Job", "Outcome", "run_jobs", "workers_for"]

GIB = 1024**3
_NEED = 3 * GIB  # Python and its libraries 1 GiB, decoded training pictures at most 2 GiB
_STOP_SECONDS = 5.0


@dataclass
class Job:
    """Something to do; ``attempt`` counts from 1."""

    content: Any
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a job: an answer, or the error of the last attempt."""

    job: Job
    answer: Any = None
    error: str | None = None
    trace: str = ""
    seconds: float = 0.0


@dataclass
class _Worker:
    """One process, and the job that it is at."""

    process: Any
    pipe: Connection
    job: Any = None  # a Job, or None
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
    return n_gpus or max(1, min(n_cores, free_bytes // (_NEED + 3 * weight_bytes)))


def run_jobs(
    contents: Sequence[Any],
    work: Callable[..., Any],
    settings: Any,
    n_workers: int,
    log: Path,
    *,
    on_step: Callable[[int, Any, str, int, int], None],
    attempts: int = 2,
) -> Generator[Outcome, None, None]:
    """Do jobs in processes, and yield what became of each as it ends.

    A job that fails is tried again at once, in a new process; after ``attempts`` its error is the outcome. When the
    iterator is closed, or Ctrl-C comes, all processes end.

    Args:
        contents: What to do; must be picklable.
        work: A module's function ``work(settings, n, content, attempt, tell)`` in worker n.
        settings: Given to every call.
        n_workers: How many processes.
        log: A file for what the processes print.
        attempts: How often a job is tried.
        on_step: Told worker, content, phase, done and total, as ``tell(phase, done, total)`` says them.
    """
    todo = deque(Job(content) for content in contents)
    workers: dict[int, _Worker] = {}
    try:
        while todo or any(worker.job for worker in workers.values()):
            for n in range(n_workers):
                _give(n, todo, workers, lambda n: _start(n, work, settings, log))
            for n, message in _messages(workers):
                job = workers[n].job
                seconds = time.monotonic() - workers[n].began
                if message[0] == "step":
                    on_step(n, job.content, *message[1:])
                elif message[0] == "done":
                    workers[n].job = None
                    yield Outcome(job, answer=message[1], seconds=seconds)
                else:
                    _end(workers.pop(n))  # what it left in memory might fail the next job too
                    if job.attempt < attempts:
                        todo.appendleft(Job(job.content, job.attempt + 1))
                    else:
                        yield Outcome(job, error=message[1], trace=message[2], seconds=seconds)
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            _end(worker)


def _give(n: int, todo: deque[Job], workers: dict[int, _Worker], start: Callable[[int], _Worker]) -> None:
    """Hand the next job to a worker that is idle or not yet there; a dead one is noticed when its pipe is read."""
    if todo and n not in workers:
        workers[n] = start(n)
    if todo and workers[n].job is None:
        workers[n].job, workers[n].began = todo.popleft(), time.monotonic()
        with suppress(OSError):
            workers[n].pipe.send((workers[n].job.content, workers[n].job.attempt))


def _messages(workers: dict[int, _Worker]) -> list[tuple[int, tuple[Any, ...]]]:
    """Wait for news: one message of every worker that has some."""
    by_pipe = {worker.pipe: n for n, worker in workers.items() if worker.job}
    news = []
    for pipe in wait(list(by_pipe), timeout=1.0):
        n = by_pipe[pipe]  # type: ignore[index]
        try:
            news.append((n, workers[n].pipe.recv()))
        except (EOFError, OSError):
            process = workers[n].process
            process.join(_STOP_SECONDS)
            news.append((n, ("failed", _why(process.exitcode), "")))
    return news


def _why(code: int | None) -> str:
    """Say how a process ended that gave no answer."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        hint = "; the system does this when memory runs out: use fewer --workers" if name == "SIGKILL" else ""
        return f"the process was killed by {name}{hint}"
    return f"the process ended without an answer (exit code {code})"


def _start(n: int, work: Callable[..., Any], settings: Any, log: Path) -> _Worker:
    """Start a process. It begins deaf to Ctrl-C, which is for its parent to handle."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, n, work, settings, log), daemon=True)
    with _deaf_to_interrupts():
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
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; a process started meanwhile ignores it from its first instruction."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, n: int, work: Callable[..., Any], settings: Any, log: Path) -> None:
    """Do jobs until the parent is gone; what they print goes to the log."""
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
