"""Tables beside a report, as CSV files for spreadsheets: each prediction, and the confusion matrix. C classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blocklora.core.errors import DataError, RunError
from blocklora.core.files import write_bytes
from blocklora.metrics import Answers, Evaluation

__all__ = ["PredictionRow", "read_predictions", "write_confusion", "write_predictions", "written_name"]


_COLUMNS = ("image", "label", "predicted", "correct", "probability", "label_probability", "zero_shot")


@dataclass(frozen=True)
class PredictionRow:
    """What a classifier said of one test image.

    Attributes:
        image: Its name.
        label: The name of its true class.
        predicted: The name of the class that was predicted.
        correct: Whether that is the true class.
        probability: Of the predicted class, in [0, 1].
        label_probability: Of the true class, in [0, 1].
        zero_shot: The name of the class that the model predicted before it was adapted; None if that is not known.
    """

    image: str
    label: str
    predicted: str
    correct: bool
    probability: float
    label_probability: float
    zero_shot: str | None


def write_predictions(
    path: Path,
    images: Sequence[str],
    labels: Sequence[int],
    said: Answers,
    class_names: Sequence[str],
    zero_shot_labels: Sequence[int] | None = None,
) -> None:
    """Write a row for each test image: ``image,label,predicted,correct,probability,label_probability,zero_shot``.

    Args:
        path: The file, such as RUN/predictions.csv, in a folder that exists; written whole or not at all.
        images: N names.
        labels: (N,) true classes, 0..C-1.
        said: The answers to them.
        class_names: C names.
        zero_shot_labels: (N,) what the model predicted before it was adapted; without it the column is left out.

    Raises:
        DataError: The lengths do not fit each other.
    """
    n, truth = len(images), np.asarray(labels, dtype=np.int64)
    before = None if zero_shot_labels is None else np.asarray(zero_shot_labels, dtype=np.int64)
    predicted = said.predicted
    lengths = {n, len(truth), len(predicted), n if before is None else len(before)}
    if len(lengths) > 1 or max(predicted, default=0) >= len(class_names):
        raise DataError(
            f"{n} images, {len(truth)} labels and {len(predicted)} answers for {len(class_names)} class names do not "
            "fit each other; expected a label and an answer for each image."
        )
    shown = [
        images,
        [class_names[c] for c in truth],
        [class_names[c] for c in predicted],
        ["yes" if hit else "no" for hit in predicted == truth],
        [f"{share:.6g}" for share in said.confidence],
        [f"{share:.6g}" for share in said.of_truth],
        *([] if before is None else [[class_names[c] for c in before]]),
    ]
    _write(path, _COLUMNS[: len(shown)], zip(*shown, strict=True))


def read_predictions(path: Path) -> tuple[PredictionRow, ...]:
    """Read what ``write_predictions`` wrote.

    Args:
        path: Such as RUN/predictions.csv.

    Returns:
        A row for each test image, in the order of the file. A byte of a file name that is not UTF-8 stays the escape
        that was written.

    Raises:
        RunError: The file cannot be read, or a line is not as it was written; the message names the line.
    """
    try:
        lines = csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True)
        header = next(lines, [])
        if header not in (list(_COLUMNS[:-1]), list(_COLUMNS)):
            raise RunError(f"{path}, line 1: expected the columns {','.join(_COLUMNS)}.")
        return tuple(_row(path, lines.line_num, header, line) for line in lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({error}); expected the predictions.csv of a run.") from error


def _row(path: Path, number: int, header: Sequence[str], line: Sequence[str]) -> PredictionRow:
    """Return the row that a line stands for."""
    cells = dict(zip(header, line, strict=False))
    try:
        row = PredictionRow(
            image=cells["image"],
            label=cells["label"],
            predicted=cells["predicted"],
            correct={"yes": True, "no": False}[cells["correct"]],
            probability=float(cells["probability"]),
            label_probability=float(cells["label_probability"]),
            zero_shot=cells["zero_shot"] if "zero_shot" in header else None,
        )
        good = len(line) == len(header) and all(
            0 <= share <= 1 for share in (row.probability, row.label_probability)
        )
    except (KeyError, ValueError):
        good = False
    if not good or (
        row.correct and row.label != row.predicted
    ):  # a name may stand for two classes: equal, not right
        raise RunError(
            f"{path}, line {number}: not as it was written; expected {','.join(header)} with yes or no for correct, "
            "and probabilities from 0 to 1. Put the file back as it was, or fit again."
        )
    return row


def written_name(image: str) -> str:
    """Return an image's name as predictions.csv has it: a byte that is not UTF-8 is an escape."""
    return image.encode("utf-8", "backslashreplace").decode("utf-8")


def write_confusion(path: Path, evaluation: Evaluation) -> None:
    """Write the confusion matrix, a row for each cell that is not 0: ``label,predicted,count``.

    Args:
        path: The file, such as RUN/confusion.csv, in a folder that exists; written whole or not at all. It has at most
            as many rows as there are test images, whatever the number of classes.
        evaluation: What the test images say.
    """
    names = [row.class_name for row in evaluation.per_class]
    cells = sorted(evaluation.confusion_counts)
    _write(path, ("label", "predicted", "count"), ((names[c], names[p], n) for c, p, n in cells))


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file in UTF-8; a byte of a file name that is not UTF-8 is written as an escape."""
    text = _Lines()
    writer = csv.writer(
        text, lineterminator="\r\n"
    )  # it quotes what is in the line's end: so both characters
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, "".join(text.lines).encode("utf-8", "backslashreplace"))


class _Lines:
    """Takes a line at a time, and ends it with a line feed alone."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        """Take a line."""
        self.lines.append(line.removesuffix("\r\n") + "\n")
