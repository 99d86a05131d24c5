"""What may be relied on is said in words that are true of the figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from blocklora.core.choices import Choice
from blocklora.metrics import (
    Sets,
    UnknownStudy,
    answers,
    evaluate,
    judge_confidence,
    judge_sets,
    judge_unknown,
    wilson_interval,
)
from blocklora.report import Mistake, RunMetrics, metrics_from_json, metrics_json, promise_sentence
from blocklora.report.confidence import alarm_sentence, confidence_view, measured_sentence
from blocklora.report.page import render_report
from blocklora.report.tables import heated


def measured(
    how: str = "validation", n_images: int = 40, covered: float = 1.0, right: float = 0.8
) -> RunMetrics:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    logits = rng.normal(size=(90, 3))
    logits[np.arange(90), labels] += 2
    sets = np.ones((90, 3), dtype=bool)
    sets[rng.random(90) > covered] = False
    found = judge_sets(sets, labels, 0.9, how=how, n_images=n_images, guaranteed=0.9)
    held_out = (rng.random(n_images), rng.random(n_images) > 1 - right)
    shares, warm = (softmax(logits / temperature, axis=1) for temperature in (1.0, 1.5))
    return replace(
        RunMetrics(evaluate(shares, labels, ["cat", "dog", "owl"])),
        confidence=judge_confidence(answers(shares, labels), answers(warm, labels), labels, held_out, found),
        choices={
            "c": Choice(1.0, "validation", n_images=40),
            "temperature": Choice(1.5, "validation", n_images=40),
        },
    )


def test_the_file_gives_it_back() -> None:
    metrics = measured()
    assert metrics_from_json(metrics_json(metrics)).confidence == metrics.confidence
    assert confidence_view(replace(metrics, confidence=None)) is None


def test_the_page_shows_sets_thresholds_and_calibration() -> None:
    page = render_report(measured(), lambda _: None)
    for text in (
        "Answering only where it is sure",
        "held that of 100.0% of the test images",
        "calibrated on 40 validation images",
        "The same images chose c",
        "Brier score",
        "For an accuracy of 80%, 90%, 95% or 99% no probability is high enough to be certain.",
    ):
        assert text in page
    assert "Least probability" not in page
    sure = render_report(measured(right=1.0), lambda _: None)
    assert "Least probability" in sure
    assert "For an accuracy of 95% or 99% no probability" in sure
    assert "fell short" not in page
    assert "fell short" in render_report(measured(covered=0.6), lambda _: None)


def sets_of(hits: int, n: int, size: int = 3) -> Sets:
    """Return what n sets come to, of which some hold the true class."""
    sets = np.zeros((n, 10), dtype=bool)
    sets[:, 1 : size + 1] = True
    sets[:hits, 0] = True
    return judge_sets(sets, np.zeros(n, dtype=np.int64), 0.9, how="folds", n_images=200, guaranteed=0.7)


@pytest.mark.parametrize(
    ("hits", "n", "said"),
    [
        (83, 100, "short"),  # the interval, 74.5 to 89.1%, ends below 90%
        (86, 100, ""),
        (168, 200, "short"),
        (180, 200, ""),
        (9, 10, ""),
        (5, 10, "short"),
        (98, 100, "more"),
        (100, 100, "more"),
        (10, 10, ""),
    ],
)
def test_measured_coverage_is_held_against_what_was_asked_for(hits: int, n: int, said: str) -> None:
    low, high = wilson_interval(hits, n)
    expected = "short" if high < 0.9 else "more" if low > 0.9 else ""
    sentence = measured_sentence(sets_of(hits, n))
    assert ("promise nothing like 90%" in sentence) == (expected == "short")
    assert ("larger than need be" in sentence) == (expected == "more")
    assert (sentence == "") == (expected == "")
    if said:
        assert expected == said


def test_without_held_out_images_nothing_is_promised() -> None:
    metrics = measured()
    assert metrics.confidence is not None
    bare = replace(metrics, confidence=replace(metrics.confidence, sets=None, wanted=()))
    page = render_report(bare, lambda _: None)
    assert "nothing can be promised" in page
    assert "Least probability" not in page


def test_unknown_things_are_told_with_what_their_scores_are_worth() -> None:
    metrics, aurocs = measured(), dict.fromkeys(("softmax", "energy", "mcm", "nearest", "together"), 0.55)
    assert metrics.confidence is not None
    found = judge_unknown(np.linspace(0.01, 1, 50), UnknownStudy(aurocs, 0.12, 3, 40), "validation")
    told = replace(metrics, confidence=replace(metrics.confidence, unknown=found))
    assert metrics_from_json(metrics_json(told)).confidence == told.confidence
    page = render_report(told, lambda _: None)
    for text in (
        "at false alarms of 5%, 4.0% of the test images",
        "12% of their 40 held-out images are found",
        "zero-shot (MCM) 0.55",
        "may be found less often",
        "little better than by guessing",
        "How well they are found</summary>",
    ):
        assert text in page
    assert "nothing is called unknown" in alarm_sentence("validation", 18, 0.05)
    assert "at most 5% are called unknown" in alarm_sentence("validation", 19, 0.05)


@pytest.mark.parametrize(
    ("how", "n", "proven", "expected"),
    [
        ("validation", 8, None, "Only 8 images were kept out of training, and sets for 90% need 9 or more"),
        ("validation", 40, 0.9, "Proven for new images like these is 90% or more"),
        ("folds", 40, 0.72, "Proven for new images like these is 72.0% or more"),
        ("folds", 40, None, "For so few nothing is proven"),
        ("leave-one-out", 40, None, "Nothing is proven"),
    ],
)
def test_a_promise_is_no_more_than_what_is_proven(
    how: str, n: int, proven: float | None, expected: str
) -> None:
    assert expected in promise_sentence(how, n, 0.9, proven)


def test_an_unusual_share_is_not_rounded() -> None:
    assert "for 97.5% need 39" in promise_sentence("validation", 3, 0.975, None)


def test_a_mistake_is_explained_by_its_patches_and_neighbours() -> None:
    heat = ((1.0, 0.0), (-1.0, 0.0))
    mistake = Mistake("a.png", "cat", "dog", (("dog", 0.9),), (("train/b.png", "dog", 0.97),), heat)
    metrics = replace(measured(), mistakes=(mistake,))
    assert metrics_from_json(metrics_json(metrics)).mistakes == (mistake,)
    page = render_report(metrics, lambda name: Image.new("RGB", (60, 40), "white"))
    assert "Heat map of a.png" in page
    assert "like this dog" in page
    shown = heated(Image.new("RGB", (60, 40), "white"), heat)
    assert shown is not None
    red, _, blue = shown.getpixel((5, 5))
    assert red > blue
    red, _, blue = shown.getpixel((5, 90))
    assert red < blue
    assert shown.getpixel((90, 48)) == (255, 255, 255)
    assert heated(None, heat) is None
