"""Answering where the model is sure: the curve, its area, and the threshold for a wanted accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics import answered_above, risk_coverage, threshold_for

CASES = st.lists(
    st.tuples(st.sampled_from([0.3, 0.4, 0.5, 0.7, 0.9, 0.95]), st.booleans()), min_size=1, max_size=40
)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_each_point_says_what_is_left_above_its_threshold(case: list[tuple[float, bool]]) -> None:
    sure, right = np.array([c for c, _ in case]), np.array([ok for _, ok in case])
    risk = risk_coverage(sure, right)
    for threshold, share, accuracy in risk.points:
        left = sure >= threshold
        assert share == pytest.approx(left.mean())
        assert accuracy == pytest.approx(right[left].mean())
    assert risk.points[-1][1] == pytest.approx(1)
    assert 0 <= risk.area <= 1


@given(CASES, st.sampled_from([0.5, 0.7, 0.8]))
@settings(max_examples=60, deadline=None)
def test_the_threshold_is_the_last_before_a_test_fails(case: list[tuple[float, bool]], wanted: float) -> None:
    sure, right = np.array([c for c, _ in case]), np.array([ok for _, ok in case])
    found = None
    for threshold in sorted(set(sure.tolist()), reverse=True):
        left = right[sure >= threshold]
        if wanted ** len(left) > 0.1:
            continue
        if binomtest(int(left.sum()), len(left), wanted, alternative="greater").pvalue > 0.1:
            break
        found = threshold
    assert threshold_for(wanted, sure, right) == found


def test_the_wanted_accuracy_is_missed_in_a_tenth_of_the_cases_at_most() -> None:
    rng, missed = np.random.default_rng(0), []
    for _ in range(300):
        sure = rng.uniform(0, 1, 200)
        threshold = threshold_for(0.8, sure, rng.random(200) < sure)
        if threshold is not None:
            missed.append((1 + threshold) / 2 < 0.8)  # the mean confidence above it is the accuracy
    assert len(missed) > 200
    assert np.mean(missed) <= 0.12


def test_what_is_left_by_hand() -> None:
    left = answered_above(0.5, [0.9, 0.5, 0.4, 0.6], [True, False, True, True])
    assert (left.answered, left.accuracy) == (0.75, pytest.approx(2 / 3))
    assert left.interval is not None
    assert left.interval[0] < 2 / 3 < left.interval[1]
    assert answered_above(0.95, [0.9], [True]).accuracy is None
    assert risk_coverage([0.9, 0.8, 0.7], [1, 1, 0]).area == pytest.approx(1 / 9)


def test_long_curves_are_thinned() -> None:
    sure = np.linspace(0, 1, 1000)
    assert len(risk_coverage(sure, sure > 0.3).points) == 50


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="accuracy 95: expected a number above 0 and below 1"):
        threshold_for(95, [0.5], [True])
    with pytest.raises(DataError, match="expected one each an image"):
        risk_coverage([0.5], [True, False])
    with pytest.raises(DataError, match="of one image or more"):
        risk_coverage([], [])
