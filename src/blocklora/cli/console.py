"""What the command line shows at the end: a summary a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from blocklora.cli.output import OUT
from blocklora.core.words import count, printable
from blocklora.data import Unreadable
from blocklora.report import RunMetrics, added_sentences, measured_sentence, sets_sentence, warnings

if TYPE_CHECKING:
    from blocklora.run.demo import DemoResult

__all__ = ["print_demo", "print_metrics", "print_protocol"]

_SHOWN_NOTES = 8


def print_metrics(metrics: RunMetrics, run: Path | None) -> None:
    """Print accuracy before and after, what to mind, and where the report is.

    Args:
        metrics: Of the run.
        run: The RUN folder that was written, if one was.
    """
    found = metrics.evaluation
    table = Table(title=None)
    for heading in ("", "accuracy", "95% interval"):
        table.add_column(heading)
    if found.zero_shot_accuracy is not None and found.zero_shot_interval is not None:
        table.add_row("zero-shot", *_accuracy(found.zero_shot_accuracy, found.zero_shot_interval))
    if metrics.method != "zero-shot":
        table.add_row(metrics.method, *_accuracy(found.accuracy, found.accuracy_interval))
    OUT.print(table)
    OUT.print(
        f"{count(found.n_test, 'test image')}, {count(found.n_classes, 'class')}; expected "
        f"calibration error {found.ece:.1%}."
    )
    for sentence in added_sentences(metrics.added_class) if metrics.added_class else ():
        OUT.print(printable(sentence), markup=False, soft_wrap=True)
    if metrics.confidence and metrics.confidence.sets:
        said = (sets_sentence(metrics.confidence.sets), measured_sentence(metrics.confidence.sets))
        OUT.print(" ".join(said).strip(), markup=False, soft_wrap=True)
    if metrics.trainable_parameters is not None and metrics.n_train is not None:
        OUT.print(
            f"Trained {metrics.trainable_parameters:,} of {metrics.total_parameters:,} parameters on "
            f"{count(metrics.n_train, 'image')} in {metrics.train_seconds:.0f} s ({metrics.device}, "
            f"{metrics.precision})."
        )
    for warning in warnings(metrics):
        OUT.print(f"warning: {warning}", markup=False, soft_wrap=True)
    _print_notes(metrics.notes)
    _print_unreadable(metrics.unreadable)
    if run:
        OUT.print(f"report: {run / 'report.html'}", markup=False, soft_wrap=True)


def _accuracy(value: float, interval: Sequence[float]) -> tuple[str, str]:
    """Return an accuracy and its interval as words."""
    low, high = interval
    return f"{value:.1%}", f"{low:.1%} to {high:.1%}"


def print_demo(result: DemoResult) -> None:
    """Print zero-shot against Block-LoRA by seed, and what the seeds have in common."""
    table = Table(title=f"{result.data}, {result.shots} images a class, {result.n_test} test images")
    for heading in ("seed", "zero-shot", "95% interval", "Block-LoRA", "95% interval", "seconds"):
        table.add_column(heading, justify="right")
    for row in result.runs:
        table.add_row(
            str(row.seed),
            *_accuracy(row.zero_shot_accuracy, row.zero_shot_interval),
            *_accuracy(row.accuracy, row.accuracy_interval),
            f"{row.train_seconds:.0f}",
        )
    OUT.print(table)
    OUT.print(result.verdict)
    for row in result.runs:
        OUT.print(f"report: {row.run}/report.html", markup=False, soft_wrap=True)


def print_protocol(result: Mapping[str, Any]) -> None:
    """Print one row a test set, and the mean that the setting is judged by."""
    trained = result["method"] != "zero-shot"
    table = Table(
        title=f"{result['setting']}, {result['method']}, {_shots(result['shots'])}, seed {result['seed']}"
    )
    names = ["zero-shot", result["method"]] if trained else ["zero-shot"]
    table.add_column("tested on")
    for heading in ("classes", "images", *(part for name in names for part in (name, "95% interval"))):
        table.add_column(heading, justify="right")
    for row in result["results"]:
        before = _accuracy(row["zero_shot_accuracy"], row["zero_shot_interval"])
        own = _accuracy(row["accuracy"], row["accuracy_interval"]) if trained else ()
        table.add_row(row["name"], str(row["n_classes"]), str(row["n_test"]), *before, *own)
    OUT.print(table)
    name, words = (
        ("harmonic_mean", "harmonic mean") if "harmonic_mean" in result else ("mean", "mean of the targets")
    )
    zero_shot = f"; zero-shot {result[name + '_zero_shot']:.1%}" if trained else ""
    OUT.print(f"{words}: {result[name]:.1%}{zero_shot}")
    _print_notes(result["notes"])
    OUT.print(f"written to {result['folder']}", markup=False, soft_wrap=True)


def _shots(shots: int | None) -> str:
    return "all images" if shots is None else count(shots, "shot")


def _print_notes(notes: Sequence[str]) -> None:
    """Print the first notes, and how many more there are."""
    for note in notes[:_SHOWN_NOTES]:
        OUT.print(f"note: {note}", markup=False, soft_wrap=True)
    if len(notes) > _SHOWN_NOTES:
        OUT.print(f"... and {count(len(notes) - _SHOWN_NOTES, 'more note')}.")


def _print_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Name the images that could not be read."""
    if unreadable:
        left_out = "was left out" if len(unreadable) == 1 else "were left out"
        OUT.print(f"{count(len(unreadable), 'image')} could not be read and {left_out}:", style="yellow")
    for bad in unreadable[:_SHOWN_NOTES]:
        OUT.print(f"  {printable(bad.reason)}", markup=False, soft_wrap=True)
    if len(unreadable) > _SHOWN_NOTES:
        OUT.print(f"  ... and {len(unreadable) - _SHOWN_NOTES} more; the report names them all.")
