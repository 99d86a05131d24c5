"""Tables beside a report, as CSV files for spreadsheets: each prediction, and the full confusion matrix. C classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from blocklora.core.errors import DataError
from blocklora.core.files import write_bytes
from blocklora.metrics import Evaluation

__all__ = ["write_confusion", "write_predictions"]


def write_predictions(
    path: Path,
    images: Sequence[str],
    labels: Sequence[int],
    probabilities: ArrayLike,
    class_names: Sequence[str],
    zero_shot_labels: Sequence[int] | None = None,
) -> None:
    """Write a row for each test image: ``image,label,predicted,correct,probability,label_probability,zero_shot``.

    Args:
        path: The file, such as RUN/predictions.csv, in a folder that exists; written whole or not at all.
        images: N names.
        labels: (N,) true classes, 0..C-1.
        probabilities: (N, C).
        class_names: C names.
        zero_shot_labels: (N,) what the model predicted before it was adapted; without it the column is left out.

    Raises:
        DataError: The lengths do not fit each other.
    """
    shares = np.asarray(probabilities)  # (N, C)
    n, truth = len(images), np.asarray(labels, dtype=np.int64)
    before = None if zero_shot_labels is None else np.asarray(zero_shot_labels, dtype=np.int64)
    if shares.shape != (n, len(class_names)) or len(truth) != n or (before is not None and len(before) != n):
        raise DataError(
            f"{n} images, {len(truth)} labels and probabilities of shape {shares.shape} for {len(class_names)} class "
            "names do not fit each other; expected a label and a row of probabilities for each image."
        )
    predicted, rows = shares.argmax(axis=1), np.arange(n)
    columns: dict[str, Sequence[object]] = {
        "image": images,
        "label": [class_names[c] for c in truth],
        "predicted": [class_names[c] for c in predicted],
        "correct": ["yes" if hit else "no" for hit in predicted == truth],
        "probability": [f"{share:.6g}" for share in shares[rows, predicted]],
        "label_probability": [f"{share:.6g}" for share in shares[rows, truth]],
    }
    if before is not None:
        columns["zero_shot"] = [class_names[c] for c in before]
    _write(path, columns.keys(), zip(*columns.values(), strict=True))


def write_confusion(path: Path, evaluation: Evaluation) -> None:
    """Write the full confusion matrix: a row for each true class, a column for each predicted one.

    Args:
        path: The file, such as confusion.csv, in a folder that exists; written whole or not at all. It takes about
            2 bytes a cell: 2 MB for 1,000 classes, 50 MB for 5,000.
        evaluation: What the test images say.
    """
    names = [row.class_name for row in evaluation.per_class]
    counts: dict[int, dict[int, int]] = {}
    for label, predicted, n in evaluation.confusion_counts:
        counts.setdefault(label, {})[predicted] = n
    columns = range(len(names))
    rows = ([name, *(counts.get(c, {}).get(p, 0) for p in columns)] for c, name in enumerate(names))
    _write(path, ["true class", *names], rows)


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file in UTF-8; a byte of a file name that is not UTF-8 is written as an escape."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))
