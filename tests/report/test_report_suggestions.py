"""What to do next, made from figures: each suggestion where its reason is there, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from blocklora.metrics import evaluate
from blocklora.report import Mistake, RunMetrics
from blocklora.report.suggestions import suggestions

NAMES = ["ant", "bee", "cow"]


def run(confusion: list[list[int]], zero_shot: int | None = None, **known: Any) -> RunMetrics:
    """Metrics with a confusion matrix; the base model says one class of every image, where it is given."""
    matrix = np.array(confusion)
    labels, predicted = (np.repeat(index.ravel(), matrix.ravel()) for index in np.indices(matrix.shape))
    probabilities = np.full((len(labels), len(matrix)), 0.4 / (len(matrix) - 1))
    probabilities[np.arange(len(labels)), predicted] = 0.6
    base = None if zero_shot is None else np.full(len(labels), zero_shot)
    return RunMetrics(evaluate(probabilities, labels, NAMES[: len(matrix)], base), **known)


def test_nothing_where_all_is_well() -> None:
    assert suggestions(run([[40, 0, 0], [0, 40, 0], [0, 0, 40]], zero_shot=0)) == []


def test_a_class_that_falls_behind() -> None:
    (text,) = suggestions(run([[95, 5, 0], [0, 100, 0], [15, 15, 70]], zero_shot=0))
    assert text == (
        "Add training images of cow: 70% of its test images are recognised (60–78% in general), 88% in the mean over "
        "classes."
    )


def test_classes_without_test_images() -> None:
    (text, *_) = suggestions(run([[50, 0, 0], [0, 50, 0], [0, 0, 0]]))
    assert text == "Add test images of cow: without them nobody knows how good it is there."


def test_classes_that_are_taken_for_each_other() -> None:
    (text, *_) = suggestions(run([[60, 40, 0], [35, 65, 0], [0, 0, 100]], zero_shot=2))
    assert text.startswith("ant and bee are taken for each other in 75 of 200 images: merge them")
    one_way = suggestions(run([[60, 40, 0], [0, 100, 0], [0, 0, 100]], zero_shot=2))
    assert not any("each other" in text for text in one_way)


def test_labels_that_may_be_wrong() -> None:
    sure = tuple(Mistake(f"{i}", "ant", "bee", (("bee", share),)) for i, share in enumerate((0.99, 0.9, 0.5)))
    found = replace(run([[100, 0], [0, 100]]), mistakes=sure)
    assert suggestions(found)[0].startswith(
        "Look at the labels of 2 test images: the classifier is at least 90%"
    )


def test_no_gain() -> None:
    advice = "Let many methods be compared on your images (--method auto)"
    texts = suggestions(run([[5, 5], [5, 5]], zero_shot=0, method="block-lora"))
    assert f"{advice}: this one shows no clear gain over zero-shot." in texts
    assert not any(advice in text for text in suggestions(run([[5, 5], [5, 5]], zero_shot=0, method="auto")))


def test_training_that_went_wrong() -> None:
    grew = tuple({"loss": loss} for loss in (1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 9.0, 9.0, 9.0, 9.0))
    flat = tuple({"loss": 1.5} for _ in range(10))
    assert "lower learning rate" in suggestions(run([[50, 50], [50, 50]], history=grew))[0]
    assert "higher learning rate" in suggestions(run([[50, 50], [50, 50]], history=flat))[0]


def test_few_test_images() -> None:
    (text,) = suggestions(run([[6, 0], [0, 6]], zero_shot=0))
    assert text == "Add test images: 12 images leave the accuracy between 76% and 100%."


def test_never_more_than_three() -> None:
    flat = tuple({"loss": 1.5} for _ in range(10))
    found = run([[3, 3, 0], [3, 3, 0], [0, 0, 0]], zero_shot=0, history=flat)
    assert len(suggestions(found)) == 3
