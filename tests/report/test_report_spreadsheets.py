from __future__ import annotations

import csv
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import DataError, RunError
from blocklora.metrics import Answers, answers, confusion_matrix, evaluate
from blocklora.report import PredictionRow, read_predictions, write_confusion, write_predictions, written_name

NAMES = ["cat", 'a "big", dog', "owl"]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])


def said(*labels: int) -> Answers:
    return answers(PROBABILITIES, labels)


def read(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_a_row_for_each_image(tmp_path):
    write_predictions(tmp_path / "p.csv", ["a,b.jpg", "c\udcff.jpg"], [0, 2], said(0, 2), NAMES, [1, 2])
    assert read(tmp_path / "p.csv") == [
        ["image", "label", "predicted", "correct", "probability", "label_probability", "zero_shot"],
        ["a,b.jpg", "cat", "cat", "yes", "0.7", "0.7", 'a "big", dog'],
        ["c\\udcff.jpg", "owl", 'a "big", dog', "no", "0.5", "0.25", "owl"],
    ]


def test_zero_shot_may_be_unknown(tmp_path):
    write_predictions(tmp_path / "p.csv", ["a", "b"], [0, 1], said(0, 1), NAMES)
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
    with pytest.raises(DataError, match="do not fit each other; expected a label and an answer"):
        write_predictions(tmp_path / "p.csv", images, labels, said(0, 1), names, before)
    assert list(tmp_path.iterdir()) == []


def test_the_confusion_matrix_has_a_row_for_each_cell_above_0(tmp_path):
    write_confusion(tmp_path / "confusion.csv", evaluate(PROBABILITIES, [0, 2], NAMES))
    assert read(tmp_path / "confusion.csv") == [
        ["label", "predicted", "count"],
        ["cat", "cat", "1"],
        ["owl", NAMES[1], "1"],
    ]


def test_the_confusion_matrix_counts_every_image_and_is_small_with_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 2000, 3000), rng.integers(0, 2000, 3000)
    labels[:1000], answers[:1000] = 7, 9
    names = [f"class {n}" for n in range(2000)]
    found = evaluate(np.eye(2000)[answers], labels, names)
    write_confusion(tmp_path / "confusion.csv", found)
    _, *rows = read(tmp_path / "confusion.csv")
    matrix = np.zeros((2000, 2000), int)
    for label, predicted, n in rows:
        matrix[names.index(label), names.index(predicted)] = int(n)
    np.testing.assert_array_equal(matrix, confusion_matrix(found.confusion_counts, 2000))
    assert matrix.sum() == 3000
    assert matrix[7, 9] >= 1000
    assert len(rows) <= 3000


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_confusion(tmp_path / "confusion.csv", evaluate(PROBABILITIES, [0, 2], NAMES))
    assert list(tmp_path.iterdir()) == []


@given(
    st.lists(st.text(), min_size=2, max_size=2),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
    st.booleans(),
)
def test_what_is_written_is_read_again(tmp_path_factory, images, names, known_before):
    path = tmp_path_factory.mktemp("p") / "p.csv"
    before = [1, 2] if known_before else None
    write_predictions(path, images, [0, 2], said(0, 2), names, before)
    one, other = read_predictions(path)
    assert [one.image, other.image] == [written_name(image) for image in images]
    zero_shot = (names[1], names[2]) if known_before else (None, None)
    assert one == PredictionRow(one.image, names[0], names[0], True, 0.7, 0.7, zero_shot[0])
    assert other == PredictionRow(other.image, names[2], names[1], False, 0.5, 0.25, zero_shot[1])


def test_two_classes_may_have_one_name(tmp_path):
    write_predictions(tmp_path / "p.csv", ["a", "b"], [0, 2], said(0, 2), ["crane", "crane", "crane"])
    assert [row.correct for row in read_predictions(tmp_path / "p.csv")] == [True, False]


HEAD = "image,label,predicted,correct,probability,label_probability"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (1, ""),
        (1, "image,label\n"),
        (3, f"{HEAD}\na,x,x,yes,0.5,0.5\na,x,x,yes,0.5\n"),
        (2, f"{HEAD}\na,x,x,yes,0.5,0.5,more\n"),
        (2, f"{HEAD}\na,x,x,true,0.5,0.5\n"),
        (2, f"{HEAD}\na,x,y,yes,0.5,0.5\n"),
        (2, f"{HEAD}\na,x,y,no,1.5,0.5\n"),
        (2, f"{HEAD}\na,x,y,no,nan,0.5\n"),
        (2, f"{HEAD}\na,x,y,no,half,0.5\n"),
        (4, f'{HEAD}\n"a\nb",x,x,yes,0.5,0.5\n\n'),
    ],
)
def test_a_line_that_was_not_written_so_is_named(line, text, tmp_path):
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=rf"p\.csv, line {line}: .*expected"):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize("content", [b"\xff\xfe", f'{HEAD}\n"a'.encode(), None])
def test_what_is_no_table_of_text_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"p\.csv: cannot be read .*; expected the predictions\.csv of a run"):
        read_predictions(tmp_path / "p.csv")
