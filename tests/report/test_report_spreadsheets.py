from __future__ import annotations

import csv
import os

import numpy as np
import pytest

from blocklora.core.errors import DataError
from blocklora.metrics import evaluate
from blocklora.report import write_confusion, write_predictions

NAMES = ["cat", 'a "big", dog', "owl"]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])


def read(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_a_row_for_each_image(tmp_path):
    write_predictions(tmp_path / "p.csv", ["a,b.jpg", "c\udcff.jpg"], [0, 2], PROBABILITIES, NAMES, [1, 2])
    assert read(tmp_path / "p.csv") == [
        ["image", "label", "predicted", "correct", "probability", "label_probability", "zero_shot"],
        ["a,b.jpg", "cat", "cat", "yes", "0.7", "0.7", 'a "big", dog'],
        ["c\\udcff.jpg", "owl", 'a "big", dog', "no", "0.5", "0.25", "owl"],
    ]


def test_zero_shot_may_be_unknown(tmp_path):
    write_predictions(tmp_path / "p.csv", ["a", "b"], [0, 1], PROBABILITIES, NAMES)
    assert [len(row) for row in read(tmp_path / "p.csv")] == [6, 6, 6]


@pytest.mark.parametrize(
    ("images", "labels", "names", "before"),
    [
        (["a"], [0, 1], NAMES, None),
        (["a", "b"], [0], NAMES, None),
        (["a", "b"], [0, 1], ["x"], None),
        (["a", "b"], [0, 1], NAMES, [0]),
    ],
)
def test_lengths_that_do_not_fit_are_refused(images, labels, names, before, tmp_path):
    with pytest.raises(DataError, match="do not fit each other; expected a label and a row of probabilities"):
        write_predictions(tmp_path / "p.csv", images, labels, PROBABILITIES, names, before)
    assert list(tmp_path.iterdir()) == []


def test_the_full_matrix(tmp_path):
    write_confusion(tmp_path / "confusion.csv", evaluate(PROBABILITIES, [0, 2], NAMES))
    header, *rows = read(tmp_path / "confusion.csv")
    assert header == ["true class", *NAMES]
    assert rows == [["cat", "1", "0", "0"], [NAMES[1], "0", "0", "0"], ["owl", "0", "1", "0"]]


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_confusion(tmp_path / "confusion.csv", evaluate(PROBABILITIES, [0, 2], NAMES))
    assert list(tmp_path.iterdir()) == []
