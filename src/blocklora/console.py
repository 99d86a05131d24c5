"""What the command line shows: a progress bar while it works, and a summary a person can read."""

from __future__ import annotations

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

__all__ = ["RunProgress", "print_demo", "print_metrics", "print_predictions"]

_SHOWN_NOTES = 8


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

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

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


def _print_unreadable(console: Console, unreadable: list[dict[str, str]]) -> None:
    """Name the pictures that could not be read."""
    if unreadable:
        console.print(f"{len(unreadable)} images could not be read and were left out:", style="yellow")
    for bad in unreadable[:_SHOWN_NOTES]:
        console.print(f"  {bad['reason']}", markup=False, soft_wrap=True)
    if len(unreadable) > _SHOWN_NOTES:
        console.print(f"  ... and {len(unreadable) - _SHOWN_NOTES} more; the report names them all.")
