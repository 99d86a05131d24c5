"""Answers: what is left of a table of images by classes, and that nothing else is needed to judge it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import DataError
from blocklora.metrics import answers, evaluate, joined_answers, judge, top_classes


@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_the_top_is_that_of_a_stable_sort(n: int, n_classes: int, k: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (n, n_classes)).astype(np.float64)  # many are equal
    top, found = top_classes(values, k)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(values, expected, axis=1))


@given(st.integers(1, 30), st.integers(2, 6), st.integers(1, 8), st.integers(0, 99))
def test_in_portions_they_are_judged_as_the_whole_table(n: int, n_classes: int, size: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    probabilities, labels = draw.dirichlet(np.ones(n_classes), n), draw.integers(0, n_classes, n)
    names = [str(c) for c in range(n_classes)]
    parts = [
        answers(probabilities[start : start + size], labels[start : start + size], 2)
        for start in range(0, n, size)
    ]
    said = joined_answers(parts)
    assert judge(said, labels, names, labels[::-1]) == evaluate(probabilities, labels, names, labels[::-1])
    np.testing.assert_array_equal(said.predicted, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(said.confidence, probabilities.max(axis=1))
    np.testing.assert_array_equal(said.of_truth, probabilities[np.arange(n), labels])


def test_what_rounding_leaves_above_one_is_one() -> None:
    said = answers([[1 + 1e-7, 0.0]], [0])
    assert (said.confidence[0], said.of_truth[0]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.4]], [0], "the sum is 0.9"),
        ([[0.5, 0.5]], [2], "expected 0 to 1"),
        (np.empty((0, 2)), [], "There is no image to evaluate"),
    ],
)
def test_what_is_no_table_of_probabilities_is_refused(probabilities, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        answers(probabilities, labels)
