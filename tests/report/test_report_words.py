from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.core.choices import Choice
from blocklora.metrics import ClassResult, Difference, Evaluation, Reliability, evaluate
from blocklora.report import RunMetrics, words


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (None, "–"),
        (0.931, "93.1%"),
        (1.0, "100.0%"),
        (0.0, "0.0%"),
        (0.9996, ">99.9%"),
        (0.9999999, ">99.9%"),
        (0.0004, "<0.1%"),
        (0.0006, "0.1%"),
    ],
)
def test_percent(share, expected):
    assert words.percent(share) == expected


@given(st.floats(0, 1), st.integers(0, 3))
@settings(deadline=None)
def test_only_all_is_written_as_all_and_only_none_as_none(share, digits):
    text = words.percent(share, digits)
    assert (text == words.percent(1.0, digits)) == (share == 1)
    assert (text == words.percent(0.0, digits)) == (share == 0)
    assert abs(float(text.strip("<>%")) - 100 * share) <= 10.0**-digits


def test_ranges():
    assert words.percent_range([0.905, 0.9512]) == "90.5–95.1%"
    assert words.percent_range([0.5, 0.75], 0) == "50–75%"
    assert words.percent_range(None) == "–"


def test_counts():
    assert words.count(1, "image") == "1 image"
    assert words.count(1200, "image") == "1,200 images"
    assert words.count(0, "class") == "0 classes"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (192.3, "3 min 12 s"),
        (3599.6, "1 h 0 min"),
        (90061, "25 h 1 min"),
    ],
)
def test_durations(seconds, expected):
    assert words.duration(seconds) == expected


def test_memory():
    assert words.memory(431_000_000) == "411 MiB"
    assert words.memory(2**30) == "1.0 GiB"
    assert words.memory(2**30 - 1) == "1.0 GiB"


CLASSES = tuple(ClassResult(name, 50, 50, 0.7, (0.56, 0.81), 0.7, 0.6) for name in ("a", "b"))
SOME_BINS = Reliability((0.0, 0.5, 1.0), (0, 100), (None, 0.71), (None, 0.7))


def metrics(evaluation=None, **known):
    """100 test images of two classes, 70 of them correct."""
    facts = {
        "accuracy": 0.7,
        "accuracy_interval": (0.6, 0.78),
        "mean_class_accuracy": 0.7,
        "n_test": 100,
        "n_correct": 70,
        "n_classes": 2,
        "ece": 0.01,
        "nll": 0.5,
        "per_class": CLASSES,
        "confusion_counts": ((0, 0, 35), (0, 1, 15), (1, 0, 15), (1, 1, 35)),
        "reliability": SOME_BINS,
    }
    return RunMetrics(Evaluation(**facts | (evaluation or {})), **known)


def compared(value, low, high, p, only_adapted=10, only_zero_shot=2, **known):
    difference = Difference(value, (low, high), p, only_adapted, only_zero_shot)
    before = {"zero_shot_accuracy": 0.7 - value, "zero_shot_interval": (0.5, 0.7), "difference": difference}
    return metrics(before, **known)


# ---- small words


def test_joined_words():
    assert [words.join(list(text)) for text in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert words.join(["a", "b"], "or") == "a or b"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["cat/1.jpg", "dog/2.jpg"], ["cat/1.jpg", "dog/2.jpg"]),
        (["/home/me/data/cat/1.jpg", "/home/me/data/dog/2.jpg"], ["cat/1.jpg", "dog/2.jpg"]),
        (["/home/me/data/1.jpg", "/home/me/data/2.jpg"], ["1.jpg", "2.jpg"]),
        (["/home/me/data/1.jpg"], ["1.jpg"]),
        (["/home/me/1.jpg", "cat/2.jpg"], ["1.jpg", "cat/2.jpg"]),
        (["C:\\Users\\me\\cat\\1.jpg", "C:/Users/me/dog/2.jpg"], ["cat/1.jpg", "dog/2.jpg"]),
        (["\\\\server\\me\\1.jpg"], ["1.jpg"]),
        (["/a/1.jpg", "/b/c/2.jpg"], ["a/1.jpg", "b/c/2.jpg"]),
        ([], []),
    ],
)
def test_a_page_does_not_tell_where_the_images_lie(names, shown):
    found = words.short_names(names)
    assert [found[name] for name in names] == shown


# ---- zero-shot and adapted


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "kind", "headline"),
    [
        (0.1, 0.02, 0.2, 0.01, "better", "Better than zero-shot by 10.0 points"),
        (-0.1, -0.2, -0.02, 0.01, "worse", "Worse than zero-shot by 10.0 points"),
        (0.1, 0.02, 0.2, 0.06, "same", "No clear difference from zero-shot (+10.0 points)"),
        (-0.1, -0.2, 0.02, 0.01, "same", "No clear difference from zero-shot (−10.0 points)"),
        (0.0, -0.1, 0.1, 1.0, "same", "No clear difference from zero-shot (0.0 points)"),
        (-0.0001, -0.1, 0.1, 1.0, "same", "No clear difference from zero-shot (0.0 points)"),
    ],
)
def test_a_difference_is_clear_only_where_interval_and_test_agree(value, low, high, p, kind, headline):
    found = words.verdict(compared(value, low, high, p))
    assert (found.kind, found.headline) == (kind, headline)


def test_evidence_of_a_verdict():
    assert words.verdict(compared(0.1, 0.024, 0.2, 0.00004, 1012, 2)).evidence == (
        "95% interval of the difference +2.4 to +20.0 points, p < 0.001, on the same 100 images. The adapted model "
        "alone is correct on 1,012 of them, zero-shot alone on 2."
    )
    assert words.verdict(metrics()) is None


def test_zero_shot_is_one_score_and_no_verdict():
    found = compared(0.0, -0.1, 0.1, 1.0, method="zero-shot")
    assert words.verdict(found) is None
    assert [score.name for score in words.scores(found)] == ["Zero-shot"]
    adapted, before = words.scores(compared(0.1, 0.02, 0.2, 0.01, method="block-lora"))
    assert (adapted.name, adapted.value, adapted.interval) == ("Adapted", 0.7, (0.6, 0.78))
    assert (before.name, before.value, before.interval) == ("Zero-shot", pytest.approx(0.6), (0.5, 0.7))
    assert [score.name for score in words.scores(metrics())] == ["Accuracy"]


@pytest.mark.parametrize(
    ("confidence", "lean"),
    [(0.9, "too sure"), (0.5, "not sure enough"), (0.71, "about as sure as it should be")],
)
def test_the_side_to_which_the_confidence_leans(confidence, lean):
    bins = Reliability((0.0, 0.5, 1.0), (0, 10), (None, confidence), (None, 0.7))
    text = words.calibration_sentence(metrics({"reliability": bins, "ece": 0.2}))
    assert (
        f"Overall the model is {lean}: its predictions have a probability of {100 * confidence:.1f}% on average, and "
        "70.0%" in text
    )


# ---- choices


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (
            Choice(2e-4, "fixed", "the published recipe of CLIP-LoRA"),
            "0.0002: the published recipe of CLIP-LoRA",
        ),
        (Choice("last", "fixed", "given"), "last: given"),
        (Choice(None, "fixed", "given"), "none: given"),
        (Choice(True, "fixed", "given"), "yes: given"),
        (
            Choice(31.622, "validation", "", 40, 25, 0.923, "accuracy"),
            "31.62: the best of 25 on 40 validation images (accuracy 92.3%)",
        ),
        (
            Choice((1.0, 2.5), "validation", "", 1, 200),
            "1 and 2.5: the best of 200 on 1 validation image",
        ),
        (
            Choice(1.2, "validation", "", 12, 1, 0.5, "log loss"),
            "1.2: fitted to 12 validation images (log loss 0.500)",
        ),
        (
            Choice(1.0, "validation", "cross-validated on the training images", 80, 25),
            "1: the best of 25 on 80 images, cross-validated on the training images",
        ),
    ],
)
def test_a_choice_in_a_sentence(choice, sentence):
    assert words.choice_sentence(choice) == sentence


def of_nothing() -> RunMetrics:
    return RunMetrics(evaluate([[0.6, 0.4]], [0], ["ant", "bee"]))


def test_what_was_fixed_for_one_reason_stands_together():
    choices = {
        "lr": Choice(2e-4, "fixed", "given"),
        "kept_step": Choice("last", "fixed", "the published recipe of CLIP-LoRA"),
        "temperature": Choice(1.5, "validation", n_images=12),
        "r": Choice(2, "fixed", "given"),
    }
    metrics = replace(of_nothing(), choices=choices, old_selection={"old": "a sentence"})
    assert words.chosen(metrics) == [
        ("temperature", "1.5: fitted to 12 validation images"),
        ("given", "lr 0.0002, r 2"),
        ("the published recipe of CLIP-LoRA", "kept_step last"),
        ("old", "a sentence"),
        ("test images", "looked at once, after training had ended; nothing was chosen by them"),
    ]
    assert words.chosen(of_nothing()) == []
    assert words.selection(of_nothing()) == {}
