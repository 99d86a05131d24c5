"""What the command line shows while it works: bars, and what the library logs."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["RunProgress"]

_LOG = logging.getLogger("blocklora")


class _LogLines(logging.Handler):
    """What the library logs, a line each on the console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        self._console.print(record.getMessage(), markup=False, soft_wrap=True)


class RunProgress:
    """Bars on stderr: training steps with loss and learning rate, and images.

    Args:
        console: Where to.
        verbose: Whether what the library logs of its engine and memory is shown, too.
        silent: Whether nothing is shown at all, as of all processes but the first that share a run.
    """

    def __init__(self, console: Console, *, verbose: bool = False, silent: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # else results that go into a file would come to stderr
            disable=silent,
        )
        self._tasks: dict[str, TaskID] = {}
        self._title = ""
        self._handler = logging.NullHandler() if silent else _LogLines(console)
        self._shown = logging.INFO if verbose else logging.WARNING

    def __enter__(self) -> RunProgress:
        _LOG.addHandler(self._handler)
        self._level = _LOG.level
        _LOG.setLevel(self._shown)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        _LOG.removeHandler(self._handler)
        _LOG.setLevel(self._level)

    def begin(self, title: str) -> None:
        """Say what the bars from now on belong to, such as "seed 1 of 3"."""
        self._title = f"{title}: "

    def part(self, name: str) -> None:
        """Say in a line which part of the run begins."""
        self._progress.console.print(f"{self._title}{name}", markup=False, soft_wrap=True)

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """Show a training step."""
        self._update("training", step, total, f"loss {loss:.3f}  lr {lr:.1e}")

    def encoded(self, done: int, total: int) -> None:
        """Show how many test images are done."""
        self._update("testing ", done, total, "")

    def looked(self, done: int, total: int) -> None:
        """Show how many images were looked at."""
        self._update("looking", done, total, "")

    def predicted(self, done: int, total: int, rate: float | None = None) -> None:
        """Show how many images are classified, and how many a second."""
        self._update("classifying", done, total, f"{rate:,.3g} images/s" if rate else "")

    def _update(self, name: str, done: int, total: int, detail: str) -> None:
        """Move a bar; a bar that was full starts again as a new one."""
        self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(self._title + name, total=total, detail=detail)
        self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)
        if done >= total:
            del self._tasks[name]
