"""What was measured and what is shipped, in words, and kept in metrics.json."""

from __future__ import annotations

from dataclasses import replace

from blocklora.metrics import evaluate
from blocklora.report import (
    CrossValidation,
    RunMetrics,
    Shipped,
    metrics_from_json,
    metrics_json,
    what_is_shipped,
)

MEASURED = RunMetrics(
    evaluate([[0.8, 0.2], [0.3, 0.7]], [0, 1], ["ant", "bee"]), method="gda", n_train=8, n_val=0
)
FOLDS = CrossValidation((1, 2), (4, 4), (4, 4), 3.0)


def test_an_ordinary_run_says_nothing() -> None:
    assert what_is_shipped(MEASURED) == []
    facts = metrics_json(MEASURED)
    assert (facts["cross_validation"], facts["shipped"]) == (None, None)
    assert metrics_from_json(facts) == MEASURED


def test_a_second_fit_is_told() -> None:
    metrics = replace(MEASURED, shipped=Shipped(20, 2.0))
    (text,) = what_is_shipped(metrics)
    assert text.startswith(
        "All figures here are of a classifier fitted to 8 training images. The one in this"
    )
    assert "to all 20 images, test images included (2.0 s), and was not measured" in text
    assert "promises neither sets of classes nor to know unknown images" in text
    assert metrics_from_json(metrics_json(metrics)) == metrics


def test_folds_are_told_with_what_each_kept() -> None:
    (text,) = what_is_shipped(replace(MEASURED, cross_validation=FOLDS))
    assert text.startswith("Measured by 2-fold cross-validation: 2 fits, each to 4 images, answered for")
    assert "Accuracy fold by fold: 25.0%, 50.0%. The fits share" in text
    assert "was fitted to all 8 images and was not measured itself" in text
    found = replace(FOLDS, n_fitted=(3, 4), kept=("gda", "gda and proker"))
    metrics = replace(MEASURED, cross_validation=found)
    assert "each to 3 to 4 images" in what_is_shipped(metrics)[0]
    assert "They kept gda; gda and proker." in what_is_shipped(metrics)[0]
    assert metrics_from_json(metrics_json(metrics)) == metrics


def test_both_are_told_where_validation_images_were_kept_apart_at_first() -> None:
    metrics = replace(MEASURED, n_val=4, cross_validation=FOLDS, shipped=Shipped(12, 1.0))
    folds, again = what_is_shipped(metrics)
    assert "was fitted to all 12 images" in folds
    assert again.startswith(
        "It was first fitted to 8 training images, and then once more, with what was chosen,"
    )
    assert "to these and 4 validation images (1.0 s)" in again
