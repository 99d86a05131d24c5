from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.report import words


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
    assert words.count(1, "picture") == "1 picture"
    assert words.count(1200, "picture") == "1,200 pictures"
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


def difference(value, low, high, p):
    return {"n_test": 100, "difference": {"value": value, "interval": [low, high], "p_value": p}}


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
    found = words.verdict(difference(value, low, high, p))
    assert (found.kind, found.headline) == (kind, headline)


def test_evidence_of_a_verdict():
    metrics = difference(0.1, 0.024, 0.2, 0.00004)
    metrics["difference"] |= {"only_adapted": 1012, "only_zero_shot": 2}
    assert words.verdict(metrics).evidence == (
        "95% interval of the difference +2.4 to +20.0 points, p < 0.001, on the same 100 pictures. 1,012 of them "
        "only the adapted model gets right, 2 only zero-shot."
    )
    assert words.verdict({}) is None


@pytest.mark.parametrize(
    ("confidence", "lean"), [(0.9, "too sure"), (0.5, "too modest"), (0.71, "about as sure as it should be")]
)
def test_the_side_to_which_the_confidence_leans(confidence, lean):
    bins = {"counts": [0, 10], "confidence": [None, confidence]}
    text = words.calibration_sentence({"reliability": bins, "ece": 0.2, "accuracy": 0.7})
    assert (
        f"Overall the model is {lean}: its answers get {100 * confidence:.1f}% on average, and 70.0%" in text
    )


def test_no_calibration_is_not_judged():
    assert words.calibration_sentence({"accuracy": 1.0}) is None
    assert words.calibration_sentence({"accuracy": 1.0, "reliability": {"counts": [1]}}) is None
