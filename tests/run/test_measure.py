"""Measuring: one pass over the test images, the mistakes that matter, and a row for each image."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import Log, read, settings

from blocklora import FewShotClassifier
from blocklora.core.errors import DataError
from blocklora.data import Example
from blocklora.metrics import answers
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run
from blocklora.run.measure import Heard, figures, measure


def test_mistakes_are_the_surest_wrong_answers() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    examples = tuple(Example(name, 0, Path(name)) for name in "abcd")
    labels = np.array([1, 1, 0, 0])
    heard = Heard(examples, labels, answers(probabilities, labels, 2), labels)
    rows = figures(heard, ["x", "y"]).mistakes
    assert [(row.image, row.label, row.predicted) for row in rows] == [
        ("a", "y", "x"),
        ("c", "x", "y"),
    ]
    assert rows[0].top == (("x", 0.9), ("y", 0.1))


def test_there_is_a_row_for_each_test_image(run: Path, photos: Path) -> None:
    with open(run / "predictions.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    test, metrics = read(run / "split.json")["test"], read(run / "metrics.json")
    assert [(row["image"], row["label"]) for row in rows] == [
        (item["image"], item["class_name"]) for item in test
    ]
    assert sum(row["correct"] == "yes" for row in rows) == metrics["n_correct"]
    loaded = FewShotClassifier.load(run, device="cpu")
    probabilities = loaded.predict_proba([photos / row["image"] for row in rows])
    classes = loaded.classes_.tolist()
    assert [row["predicted"] for row in rows] == [classes[place] for place in probabilities.argmax(axis=1)]
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], probabilities.max(axis=1), rtol=1e-4
    )
    zero_shot = sum(row["zero_shot"] == row["label"] for row in rows) / len(rows)
    assert zero_shot == pytest.approx(metrics["zero_shot_accuracy"])


def test_unreadable_images_have_no_row(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    make_photos(tmp_path / "parted" / "train", n=2)
    test = make_photos(tmp_path / "parted" / "test", n=2)
    (test / "red_square" / "0.png").write_text("hello", encoding="utf-8")
    given = settings(clip_folder, method="zero-shot", shots=None)
    out, metrics = fit_run(str(tmp_path / "parted"), tmp_path / "run", **given)
    with open(out / "predictions.csv", encoding="utf-8", newline="") as stream:
        images = [row["image"] for row in csv.DictReader(stream)]
    assert len(images) == metrics.evaluation.n_test == 5
    assert "test/red_square/0.png" not in images
    assert [bad.image for bad in metrics.unreadable] == ["test/red_square/0.png"]


def test_what_is_measured_can_be_empty_or_unreadable(run: Path, tmp_path: Path) -> None:
    loaded, log = load_run(run, device="cpu"), Log()
    (broken := tmp_path / "broken.png").write_text("no image", encoding="utf-8")
    with pytest.raises(DataError, match="things: none of the 1 test image can be read"):
        measure(loaded, "things", [Example("broken.png", 0, broken)], log)
    assert log.done == [(1, 1)]
