"""Statistics against brute force, scipy's other implementations, and published tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from blocklora.bench.statistics import (
    mean_ranks,
    nemenyi_difference,
    paired_t,
    pareto_front,
    rank_groups,
    summarize,
    wilcoxon_exact,
)

accuracies = st.integers(0, 50).map(lambda n: n / 50)  # coarse: ties and zeros are common


def wilcoxon_by_hand(differences: list[float]) -> float:
    """Try every pattern of signs."""
    values = [d for d in differences if d]
    order = sorted(abs(d) for d in values)
    ranks = [np.mean([place + 1 for place, d in enumerate(order) if d == abs(v)]) for v in values]
    seen = sum(rank for rank, v in zip(ranks, values, strict=True) if v > 0)
    middle = sum(ranks) / 2
    sums = [
        sum(r for r, up in zip(ranks, ups, strict=True) if up)
        for ups in itertools.product([0, 1], repeat=len(ranks))
    ]
    return float(np.mean([abs(total - middle) >= abs(seen - middle) - 1e-9 for total in sums]))


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_wilcoxon_is_exact_with_ties_and_zeros(values: list[int]) -> None:
    p = wilcoxon_exact([value / 100 for value in values])
    assert p == pytest.approx(wilcoxon_by_hand([float(value) for value in values]))
    assert wilcoxon_exact([-value / 100 for value in values]) == pytest.approx(p)


def test_wilcoxon_is_scipys_exact_test_where_there_are_no_ties() -> None:
    values = np.array([0.5, -1.2, 2.5, 3.1, 4.7, -5.3, 6.9, 7.1, 8.8, 9.4, 10.2])
    assert wilcoxon_exact(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
    many = np.linspace(-1, 2.03, 40)
    assert wilcoxon_exact(many) == pytest.approx(stats.wilcoxon(many).pvalue)
    assert wilcoxon_exact([0.0, 0.0]) == 1
    assert wilcoxon_exact([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)  # the least that five data sets can give


@pytest.mark.parametrize(("n", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (7, 2.949), (10, 3.164)])
def test_nemenyi_has_demsars_critical_values(n: int, q: float) -> None:
    """Table 5(a) of Demšar 2006."""
    assert nemenyi_difference(n, 14) == pytest.approx(q * np.sqrt(n * (n + 1) / (6 * 14)), abs=2e-3)


@given(
    st.integers(1, 6).flatmap(
        lambda m: st.lists(st.lists(accuracies, min_size=m, max_size=m), min_size=1, max_size=6)
    )
)
def test_mean_ranks_count_who_is_better(rows: list[list[float]]) -> None:
    m = len(rows[0])
    for method, rank in enumerate(mean_ranks(rows)):
        counts = [
            1 + sum(other > row[method] for other in row) + (row.count(row[method]) - 1) / 2 for row in rows
        ]
        assert rank == pytest.approx(np.mean(counts))
    assert mean_ranks(rows).sum() == pytest.approx(m * (m + 1) / 2)


@given(st.lists(st.floats(1, 9), min_size=1, max_size=7).map(sorted), st.floats(0, 5))
def test_rank_groups_are_the_largest_that_fit(ranks: list[float], difference: float) -> None:
    n = len(ranks)
    fitting = {(a, b) for a in range(n) for b in range(a + 1, n) if ranks[b] - ranks[a] <= difference}
    largest = {g for g in fitting if not any(h != g and h[0] <= g[0] and g[1] <= h[1] for h in fitting)}
    assert set(rank_groups(ranks, difference)) == largest


def test_summary_of_seeds() -> None:
    values = [0.71, 0.74, 0.78, 0.70, 0.75]
    summary = summarize(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert summary.interval == pytest.approx((low, high))
    assert (summary.n, summary.mean, summary.sd) == (
        5,
        pytest.approx(0.736),
        pytest.approx(stats.tstd(values)),
    )
    assert summarize([0.5]) == summarize([0.5])
    assert (summarize([0.5]).sd, summarize([0.5]).interval) == (None, None)


def test_paired_t_is_the_one_sample_test_of_differences() -> None:
    first, second = [0.7, 0.8, 0.75], [0.6, 0.72, 0.69]
    expected = stats.ttest_1samp(np.subtract(first, second), 0).pvalue
    assert paired_t(first, second) == pytest.approx(expected)
    assert paired_t([0.7], [0.6]) == 1
    assert paired_t([0.7, 0.701], [0.6, 0.6]) == 1
    assert paired_t([0.7, 0.7, 0.7], [0.6, 0.6, 0.6]) == 1  # no spread, no test


@given(st.lists(st.tuples(accuracies, accuracies), max_size=8))
def test_nobody_on_the_front_is_beaten_and_all_others_are(points: list[tuple[float, float]]) -> None:
    front = pareto_front([cost for cost, _ in points], [gain for _, gain in points])
    for place, (cost, gain) in enumerate(points):
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert (place in front) is not beaten
