"""What a bench shows while it works: how far the grid is, what every worker is at, and the time that is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from blocklora.bench.grid import GridRun

__all__ = ["BenchProgress", "seconds_left"]


def seconds_left(
    left: Iterable[GridRun], finished: Iterable[tuple[GridRun, float]], n_workers: int
) -> float | None:
    """Estimate the time that the rest of a grid takes.

    A run is expected to take as long as the mean of the finished runs that are most like it: of the same method,
    model, data and shots; else of the same method, model and shots; else of the same method; else of all.

    Args:
        left: Runs to do.
        finished: Runs that are done, and the seconds that each took.
        n_workers: How many are done at once.

    Returns:
        Seconds, or None while nothing is finished.
    """
    seen: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for run, seconds in finished:
        for like in _likenesses(run):
            seen[like].append(seconds)
    if not seen:
        return None
    means = {like: fmean(seconds) for like, seconds in seen.items()}
    expected = [next(means[like] for like in _likenesses(run) if like in means) for run in left]
    return max(sum(expected) / n_workers, max(expected, default=0.0))


def _likenesses(run: GridRun) -> list[tuple[object, ...]]:
    """Return what a run may have in common with others, the most telling first."""
    return [
        (run.method, run.model, run.data, run.shots),
        (run.method, run.model, run.shots),
        (run.method,),
        (),
    ]


class BenchProgress:
    """One bar for the grid and one line a worker, on stderr; a line for every failure. Quiet where nobody watches."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
        )
        self._grid: TaskID | None = None
        self._lines: dict[int, TaskID] = {}
        self._left: dict[str, GridRun] = {}
        self._finished: list[tuple[GridRun, float]] = []
        self._n_workers = 1

    def __enter__(self) -> BenchProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(
        self,
        left: Sequence[GridRun],
        finished: Sequence[tuple[GridRun, float]],
        n_workers: int,
        notes: Sequence[str] = (),
    ) -> None:
        """Show what there is to do; ``finished`` are earlier runs, with their seconds; ``notes`` are said first."""
        for note in notes:
            self.say(note)
        self._left = {run.key: run for run in left}
        self._finished, self._n_workers = list(finished), n_workers
        done = f"{len(finished)} of {len(finished) + len(left)} runs are done already; " if finished else ""
        many = "1 process" if n_workers == 1 else f"{n_workers} processes"
        self.say(f"{done}{len(left)} to do, {many}.")
        self._grid = self._progress.add_task("grid", total=len(left), detail="")
        if left and self._console.is_terminal:
            self._progress.start()

    def step(self, worker: int, run: GridRun, phase: str, done: int, total: int) -> None:
        """Show what a worker is at."""
        if worker not in self._lines:
            self._lines[worker] = self._progress.add_task("", total=total, detail="")
        line = self._lines[worker]
        self._progress.update(line, description=phase, completed=done, total=total, detail=run.name)

    def end(self, run: GridRun, seconds: float, error: str | None) -> None:
        """Count a run, and say so where it failed."""
        self._left.pop(run.key)
        if error is None:
            self._finished.append((run, seconds))
        else:
            self.say(f"failed: {run.name}: {error}", style="red")
        left = seconds_left(self._left.values(), self._finished, self._n_workers)
        detail = "" if left is None else f"about {timedelta(seconds=round(left))} left"
        if self._grid is not None:
            self._progress.update(self._grid, advance=1, detail=detail)

    def say(self, text: str, **style: Any) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, markup=False, soft_wrap=True, **style)
