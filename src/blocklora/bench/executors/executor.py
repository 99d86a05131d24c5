"""What every way to do the runs of a grid has in common: orders go in, and one outcome for each comes out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from blocklora.bench.records import Machine
from blocklora.bench.work import RunOrder

__all__ = ["Executor", "OnStep", "Outcome", "WorkItem"]

OnStep = Callable[[int, Any, str, int, int], None]
"""Progress callback: which worker, the order, its phase, steps done and in all."""


@dataclass
class WorkItem:
    """Something to do, which must be picklable; ``attempt`` counts from 1."""

    content: Any
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of an item: an answer, or the error of the last attempt.

    Attributes:
        item: The item.
        answer: What its work returned.
        error: Why it failed, in one line.
        trace: The traceback of the error.
        seconds: From when it was begun.
        machine: Where it was done; None: on the machine that the executor describes.
    """

    item: WorkItem
    answer: Any = None
    error: str | None = None
    trace: str = ""
    seconds: float = 0.0
    machine: Machine | None = None


class Executor(Protocol):
    """Does runs, several at once; a process that dies fails its own run only."""

    @property
    def n_workers(self) -> int:
        """How many runs are done at once."""
        ...

    @property
    def machine(self) -> Machine:
        """Where they are done."""
        ...

    def outcomes(self, orders: Sequence[RunOrder], on_step: OnStep) -> Generator[Outcome, None, None]:
        """Do all orders, and yield what became of each as it ends; when it is closed, all work ends."""
        ...
