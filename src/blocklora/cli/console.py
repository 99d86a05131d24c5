"""What the command line shows: a progress bar while it works, and a summary a person can read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

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
from rich.table import Table

__all__ = [
    "RunProgress",
    "print_datasets",
    "print_demo",
    "print_metrics",
    "print_predictions",
    "print_protocol",
]

_LOG = logging.getLogger("blocklora")
_SHOWN_NOTES = 8


class _Lines(logging.Handler):
    """What the library logs, a line each on the console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        self._console.print(record.getMessage(), markup=False, soft_wrap=True)


class RunProgress:
    """Two bars on stderr: training steps with loss and learning rate, and test images."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._handler = _Lines(console)

    def __enter__(self) -> RunProgress:
        _LOG.addHandler(self._handler)
        self._level = _LOG.level
        _LOG.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        _LOG.removeHandler(self._handler)
        _LOG.setLevel(self._level)

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """Show a training step."""
        self._update("training", step, total, f"loss {loss:.3f}  lr {lr:.1e}")

    def encoded(self, done: int, total: int) -> None:
        """Show how many test pictures are done."""
        self._update("testing ", done, total, "")

    def _update(self, name: str, done: int, total: int, detail: str) -> None:
        """Move a bar; a bar that was full starts again as a new one."""
        self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, detail=detail)
        self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)
        if done >= total:
            del self._tasks[name]


def print_metrics(metrics: dict[str, Any], run: Path | None) -> None:
    """Print accuracy before and after, what to mind, and where the report is."""
    console = Console(highlight=False)
    table = Table(title=None)
    for heading in ("", "accuracy", "95% interval"):
        table.add_column(heading)
    rows = [("zero-shot", "zero_shot_accuracy", "zero_shot_interval")]
    rows.append((metrics.get("method", "this run"), "accuracy", "accuracy_interval"))
    for name, value, interval in rows:
        low, high = metrics[interval]
        table.add_row(name, f"{metrics[value]:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(table)
    console.print(
        f"{metrics['n_test']} test images, {metrics['n_classes']} classes; expected calibration error "
        f"{metrics['ece']:.1%}."
    )
    if "trainable_parameters" in metrics:
        console.print(
            f"Trained {metrics['trainable_parameters']:,} of {metrics['total_parameters']:,} numbers on "
            f"{metrics['n_train']} images in {metrics['train_seconds']:.0f} s ({metrics['device']}, "
            f"{metrics['precision']})."
        )
    for note in metrics.get("notes", [])[:_SHOWN_NOTES]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    _print_unreadable(console, metrics["unreadable"])
    if run:
        console.print(f"report: {run / 'report.html'}", markup=False, soft_wrap=True)


def print_predictions(result: dict[str, Any]) -> None:
    """Print each image with its most probable classes."""
    console = Console(highlight=False)
    for item in result["predictions"]:
        top = ", ".join(f"{entry['label']} {entry['probability']:.1%}" for entry in item["top"])
        console.print(f"{item['image']}: {top}", markup=False, soft_wrap=True)


def print_demo(result: dict[str, Any]) -> None:
    """Print zero-shot against Block-LoRA by seed, and what the seeds have in common."""
    console = Console(highlight=False)
    table = Table(title=f"{result['data']}, {result['shots']} images a class, {result['n_test']} test images")
    for heading in ("seed", "zero-shot", "95% interval", "Block-LoRA", "95% interval", "seconds"):
        table.add_column(heading, justify="right")
    for row in result["runs"]:
        table.add_row(
            str(row["seed"]),
            f"{row['zero_shot_accuracy']:.1%}",
            "{:.1%} to {:.1%}".format(*row["zero_shot_interval"]),
            f"{row['accuracy']:.1%}",
            "{:.1%} to {:.1%}".format(*row["accuracy_interval"]),
            f"{row['train_seconds']:.0f}",
        )
    console.print(table)
    console.print(result["verdict"])
    for row in result["runs"]:
        console.print(f"report: {row['run']}/report.html", markup=False, soft_wrap=True)


def print_protocol(result: dict[str, Any]) -> None:
    """Print one row a test set, and the mean that the setting is judged by."""
    console = Console(highlight=False)
    table = Table(
        title=f"{result['setting']}, {result['method']}, {result['shots'] or 'all'} shots, seed {result['seed']}"
    )
    for heading in (
        "tested on",
        "classes",
        "images",
        "zero-shot",
        "95% interval",
        result["method"],
        "95% interval",
    ):
        table.add_column(heading, justify="left" if heading == "tested on" else "right")
    for row in result["results"]:
        table.add_row(
            row["name"],
            str(row["n_classes"]),
            str(row["n_test"]),
            f"{row['zero_shot_accuracy']:.1%}",
            "{:.1%} to {:.1%}".format(*row["zero_shot_interval"]),
            f"{row['accuracy']:.1%}",
            "{:.1%} to {:.1%}".format(*row["accuracy_interval"]),
        )
    console.print(table)
    name, words = (
        ("harmonic_mean", "harmonic mean") if "harmonic_mean" in result else ("mean", "mean of the targets")
    )
    console.print(f"{words}: {result[name]:.1%}; zero-shot {result[name + '_zero_shot']:.1%}")
    for note in result["notes"][:_SHOWN_NOTES]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"written to {result['folder']}", markup=False, soft_wrap=True)


def print_datasets(rows: list[dict[str, Any]]) -> None:
    """Print what is known of data sets and, where it was looked for, what is there and what is missing."""
    console = Console(highlight=False)
    if len(rows) > 1:
        lines = [
            f"{row['name']:<16} {row['title']:<16}"
            + (_state(row) if "complete" in row else f"{row['n_classes']:>5} classes  {row['page']}")
            for row in rows
        ]
    else:
        (row,) = rows
        lines = [f"{row['title']} ({row['name']}), prompt {row['prompt']!r}, from {row['page']}"]
        lines += ["expected below the root:", *(f"  {line}" for line in row["expected"])]
        lines += _found(row) if "complete" in row else []
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _found(row: dict[str, Any]) -> list[str]:
    """Describe what of one data set is on disk, line by line."""
    lines = [f"folder: {row['folder'] or 'not there'}"]
    lines += [f"{word}: {', '.join(row[word])}" for word in ("there", "missing") if row[word]]
    if row["images"]:
        parts = ", ".join(f"{n} {part}" for part, n in row["images"].items())
        lines.append(f"images: {parts}; {row['n_classes']} classes")
    lines += [f"missing image: {image}" for image in row["missing_images"][:_SHOWN_NOTES]]
    return [*lines, *(f"note: {note}" for note in row["notes"]), _state(row)]


def _state(row: dict[str, Any]) -> str:
    """Return in a few words whether a data set can be used."""
    if row["complete"]:
        return "complete"
    if row["problem"]:
        return f"not usable: {row['problem']}" if row["folder"] else "not there"
    if row["missing_images"]:
        return f"{len(row['missing_images'])} images missing"
    return f"usable, but not whole: {'; '.join(row['notes'])}"


def _print_unreadable(console: Console, unreadable: list[dict[str, str]]) -> None:
    """Name the pictures that could not be read."""
    if unreadable:
        console.print(f"{len(unreadable)} images could not be read and were left out:", style="yellow")
    for bad in unreadable[:_SHOWN_NOTES]:
        console.print(f"  {bad['reason']}", markup=False, soft_wrap=True)
    if len(unreadable) > _SHOWN_NOTES:
        console.print(f"  ... and {len(unreadable) - _SHOWN_NOTES} more; the report names them all.")
