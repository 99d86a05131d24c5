from itertools import product
from math import comb, factorial, prod
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics import (
    cross_validated_interval,
    mcnemar_exact,
    paired_difference_interval,
    wilson_interval,
)

few = st.integers(0, 40)
tables = st.tuples(few, few, few, few).filter(any)


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_wilson_solves_its_equation(n, share, confidence):
    n_correct = round(share * n)
    low, high = wilson_interval(n_correct, n, confidence)
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), n_correct / n
    # (p - x)^2 = z^2 x (1 - x) / n, as a polynomial in x
    roots = np.roots([1 + z**2 / n, -2 * p - z**2 / n, p**2])
    assert sorted(roots.real) == pytest.approx([low, high], abs=1e-6)
    assert 0 <= low <= p <= high <= 1


def test_wilson_of_none_and_all_is_not_a_point():
    assert wilson_interval(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.72247, 1), abs=1e-5)


@pytest.mark.parametrize(("n_correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(n_correct, n):
    with pytest.raises(DataError, match=f"{n_correct} correct of {n} has no interval"):
        wilson_interval(n_correct, n)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_impossible_confidence_is_refused(confidence):
    with pytest.raises(ConfigError, match=f"confidence is {confidence}; expected a value between 0 and 1"):
        wilson_interval(1, 2, confidence)


@given(few, few)
@settings(max_examples=60, deadline=None)
def test_mcnemar_counts_coin_flips(only_first, only_second):
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(n, k) for k in range(fewer + 1)) / 2**n
    assert mcnemar_exact(only_first, only_second) == pytest.approx(min(1.0, 2 * tail))


def test_newcombe_of_a_published_table():
    # Newcombe (1998), method 10, for the table 36, 12, 2, 0
    assert paired_difference_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(tables)
@settings(max_examples=60, deadline=None)
def test_swapping_the_models_mirrors_the_interval(table):
    both, first, second, neither = table
    low, high = paired_difference_interval(both, first, second, neither)
    assert paired_difference_interval(both, second, first, neither) == pytest.approx((-high, -low))
    assert -1 - 1e-12 <= low <= (first - second) / sum(table) <= high <= 1 + 1e-12


def test_models_that_agree_keep_an_interval():
    low, high = paired_difference_interval(20, 0, 0, 0)
    assert low < -0.1 < 0.1 < high


@pytest.mark.parametrize("truth", [(0.7, 0.2, 0.05, 0.05), (0.4, 0.1, 0.1, 0.4), (0.9, 0.05, 0.05, 0.0)])
def test_interval_covers_the_true_difference_about_95_times_in_100(truth):
    n, covered = 20, 0.0
    for a, b, c in product(range(n + 1), repeat=3):
        d = n - a - b - c
        if d < 0 or (d and not truth[3]):
            continue
        ways = factorial(n) // prod(map(factorial, (a, b, c, d)))
        chance = ways * prod(p**k for p, k in zip(truth, (a, b, c, d), strict=True))
        low, high = paired_difference_interval(a, b, c, d) if chance > 1e-6 else (0, 0)
        covered += chance * (low <= truth[1] - truth[2] <= high)
    assert 0.93 < covered < 0.999


def test_an_empty_table_is_refused():
    with pytest.raises(DataError, match="0 correct of 0"):
        paired_difference_interval(0, 0, 0, 0)


counts_of_folds = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=2, max_size=8)


@given(counts_of_folds, st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_folds_is_the_wider_of_two(folds, n_fitted):
    right, judged = [min(right, n) for right, n in folds], [n for _, n in folds]
    low, high = cross_validated_interval(right, judged, [n_fitted] * len(folds))
    k, accuracies = len(folds), [r / n for r, n in zip(right, judged, strict=True)]
    mean = sum(accuracies) / k
    variance = sum((accuracy - mean) ** 2 for accuracy in accuracies) / (k - 1)
    margin = t.ppf(0.975, k - 1) * ((1 / k + sum(judged) / k / n_fitted) * variance) ** 0.5
    pooled, wilson = sum(right) / sum(judged), wilson_interval(sum(right), sum(judged))
    assert low == pytest.approx(max(0, min(wilson[0], pooled - margin)))
    assert high == pytest.approx(min(1, max(wilson[1], pooled + margin)))
    assert low <= pooled <= high


@pytest.mark.parametrize("counts", [([1], [2], [3]), ([1, 0], [1, 0], [3, 3]), ([1, 1], [2, 2], [0, 3])])
def test_folds_without_images_have_no_interval(counts):
    with pytest.raises(DataError, match="folds: expected two or more, with images in each"):
        cross_validated_interval(*counts)
