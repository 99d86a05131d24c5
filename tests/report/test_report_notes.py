from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blocklora.metrics import evaluate
from blocklora.report import RunMetrics, notes, warnings


def answered(n_correct_now, n_correct_before, n_test=200, confidence=0.9, **known):
    """Two classes; the first so many images are correct."""
    labels = np.arange(n_test) % 2
    order = np.arange(n_test)
    now = np.where(order < n_correct_now, labels, 1 - labels)
    before = np.where(order < n_correct_before, labels, 1 - labels)
    shares = np.where(np.eye(2)[now] == 1, confidence, 1 - confidence)
    return RunMetrics(evaluate(shares, labels, ["ant", "bee"], before), **{"method": "block-lora"} | known)


def losses(*values):
    return tuple({"step": i, "loss": loss, "lr": 1e-3} for i, loss in enumerate(values, start=1))


# ---- classes without a test image


@pytest.mark.parametrize(
    ("names", "note"),
    [
        ("ab", None),
        ("abc", "1 of 3 classes has no test image: c. The accuracy says nothing about it."),
        ("abcd", "2 of 4 classes have no test image: c and d. The accuracy says nothing about them."),
        (
            "abcdefghi",
            "7 of 9 classes have no test image: c, d, e, f, g and 2 more. The accuracy says nothing about them.",
        ),
    ],
)
def test_classes_without_a_test_image_are_named(names, note):
    found = evaluate(np.eye(len(names))[[0, 1]], [0, 1], list(names))
    assert notes.untested_note(found) == note


def test_test_images_that_were_trained_on():
    assert notes.leak_note([]) is None
    assert notes.leak_note([("a.jpg", "b.jpg")]) == (
        "1 test image is identical, byte for byte, to a training or validation image, e.g. b.jpg and a.jpg: the "
        "accuracy is flattered by it."
    )
    assert notes.leak_note([("a", "b")] * 2000).startswith("2,000 test images are identical")


# ---- probabilities


def test_probabilities_that_mean_little():
    """92% correct, every probability near chance: the probabilities say nothing."""
    found = answered(184, 100, confidence=0.55)
    assert notes.calibration_note(found.evaluation) == (
        "The probabilities mean little: the expected calibration error is 37.0%. The predicted classes get a "
        "probability of 55.0% on average, and 92.0% of them are correct."
    )
    assert notes.calibration_note(answered(184, 100, confidence=0.9).evaluation) is None
    few = notes.calibration_note(answered(1, 1, n_test=1, confidence=0.55).evaluation)
    assert few.endswith("With only 1 test image, part of it may be chance.")


def test_the_limit_of_the_calibration_error_is_a_fifth():
    found = answered(184, 100).evaluation
    assert notes.calibration_note(replace(found, ece=0.2)) is None
    assert notes.calibration_note(replace(found, ece=0.2001)) is not None


# ---- gain


def test_a_clear_gain_needs_no_note():
    assert notes.gain_note(answered(180, 100)) is None


def test_no_gain_says_what_to_try():
    assert notes.gain_note(answered(102, 100)) == (
        "There is no clear gain over zero-shot (+1.0 points, 95% interval −0.7 to +2.7). Try more training images a "
        "class or the best of many methods, found on the training images (--method auto)."
    )
    trained = answered(102, 100, history=losses(2, 1.5, 1, 0.8, 0.6))
    assert "a higher learning rate (--lr) or more steps (--iterations)" in notes.gain_note(trained)
    assert "--method" not in notes.gain_note(answered(102, 100, method="auto"))
    assert "more test images, as 10 images show large gains only" in notes.gain_note(
        answered(6, 5, n_test=10)
    )


def test_worse_than_zero_shot_is_said():
    assert notes.gain_note(answered(100, 160)).startswith(
        "It is worse than zero-shot (−30.0 points, 95% interval"
    )


@pytest.mark.parametrize("known", [{"method": "zero-shot"}, {}])
def test_where_nothing_could_be_gained_nothing_is_said(known):
    assert notes.gain_note(answered(200, 200, **known)) is None


# ---- loss


@pytest.mark.parametrize(
    ("values", "trend"),
    [
        ([], None),
        ([1.0, 0.5], None),
        ([2.0, 1.5, 1.0, 0.7, 0.5], "falls"),
        ([1.609, 1.61, 1.608, 1.61, 1.607], "flat"),
        ([0.02, 0.03, 0.02, 0.02, 0.02], "falls"),
        ([1.0, 1.2, 2.0, 4.0, 8.0], "diverged"),
        ([0.1, 0.1, 0.1, 0.1, 0.2], "falls"),
        ([1.0, 0.9, float("nan")], "diverged"),
        ([1.0, 0.9, None], "diverged"),
    ],
)
def test_how_the_loss_went(values, trend):
    found = notes.loss_trend(losses(*values))
    assert found == trend


def test_a_loss_that_diverged_or_stayed_flat_is_said_with_what_to_try():
    diverged = losses(1, 2, 4, 8, 9)
    assert "training diverged. Try a lower learning rate (--lr)" in notes.training_note(
        answered(1, 1, history=diverged)
    )
    flat = losses(*[1.6] * 10)
    found = answered(102, 100, history=flat)
    assert "stayed flat: nothing was learned. Try a higher learning rate" in notes.training_note(found)
    assert "learning rate" not in notes.gain_note(found)  # it is said once
    assert notes.training_note(answered(180, 100, history=flat)) is None  # it did learn


def test_warnings_are_the_notes_that_have_something_to_say():
    assert warnings(answered(180, 100)) == []
    found = answered(102, 100, confidence=0.9, history=losses(*[1.6] * 10))
    assert [note.split()[0] for note in warnings(found)] == ["The", "There", "The"]
