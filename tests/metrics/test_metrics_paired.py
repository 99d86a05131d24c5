from __future__ import annotations

from dataclasses import astuple
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import DataError
from blocklora.metrics import (
    PairedAnswers,
    evaluate,
    expected_calibration_error,
    holm,
    log_loss,
    negative_log_likelihood,
    pair_answers,
    top_calibration_error,
)

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
p_values = st.lists(st.floats(1e-6, 1), min_size=1, max_size=8)


@given(answers)
def test_counts_and_p_are_those_counted_by_hand(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = pair_answers(first, second)
    cells = [(True, True), (True, False), (False, True), (False, False)]
    assert astuple(found) == tuple(pairs.count(cell) for cell in cells)
    n, fewer = found.only_first + found.only_second, min(found.only_first, found.only_second)
    tail = sum(comb(n, k) for k in range(fewer + 1)) / 2**n  # an image is won by either with probability 1/2
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert found.difference == pytest.approx((sum(first) - sum(second)) / len(pairs))
    assert found.interval[0] <= found.difference <= found.interval[1]


@given(answers)
def test_the_other_way_round_is_the_mirror_image(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    one, other = pair_answers(first, second), pair_answers(second, first)
    assert other == PairedAnswers(one.both, one.only_second, one.only_first, one.neither)
    assert other.p_value == one.p_value
    assert other.difference == -one.difference
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


@given(st.lists(st.booleans(), min_size=1))
def test_the_same_answers_do_not_differ(right: list[bool]) -> None:
    found = pair_answers(right, right)
    assert (found.p_value, found.difference) == (1.0, 0.0)
    assert found.interval[0] < 0 < found.interval[1]


def test_statsmodels_worked_example() -> None:
    # statsmodels.stats.contingency_tables.mcnemar([[101, 121], [59, 33]], exact=True).pvalue
    assert PairedAnswers(101, 121, 59, 33).p_value == pytest.approx(4.434e-06, rel=1e-3)


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_answers_that_cannot_be_paired_are_refused(first: list[bool], second: list[bool]) -> None:
    with pytest.raises(DataError, match=r"cannot be paired; expected \(N,\) twice"):
        pair_answers(first, second)


@given(p_values)
def test_holm_rejects_what_the_step_down_procedure_rejects(values: list[float]) -> None:
    adjusted = holm(values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, index in enumerate(np.argsort(values, kind="stable")):
            if values[index] > alpha / (len(values) - step):
                break
            rejected.add(int(index))
        assert {i for i, p in enumerate(adjusted) if p <= alpha * (1 + 1e-12)} == rejected
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(p_values)
def test_one_p_needs_no_correction(values: list[float]) -> None:
    assert holm(values[:1]) == values[:1]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_calibration_needs_no_more_than_two_probabilities_an_image(n: int, n_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(n_classes), n), rng.integers(0, n_classes, n)
    found = evaluate(probabilities, labels, [str(c) for c in range(n_classes)])
    of_truth = np.minimum(probabilities[np.arange(n), labels], 1)
    confidence, correct = np.minimum(probabilities.max(axis=1), 1), probabilities.argmax(axis=1) == labels
    assert (
        top_calibration_error(confidence, correct)
        == found.ece
        == expected_calibration_error(probabilities, labels)
    )
    assert log_loss(of_truth) == found.nll == negative_log_likelihood(probabilities, labels)


@pytest.mark.parametrize("values", [[], [1.1], [-0.1], [float("nan")], [[0.5]]])
def test_what_is_no_probability_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"of_truth has shape .*; expected \(N,\) probabilities in \[0, 1\]"):
        log_loss(values)
    with pytest.raises(DataError, match="confidence has shape"):
        top_calibration_error(values, [True])


def test_confidence_and_answers_must_fit() -> None:
    with pytest.raises(DataError, match=r"2 confidences and correct of shape \(1,\)"):
        top_calibration_error([0.5, 0.5], [True])
