"""What a bench may say about methods: pure functions of accuracies.

Axes: D = data sets (the blocks of a comparison), M = methods, S = seeds.
Sources: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006) 1-30; Holm, A Simple
Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6 (1979) 65-70; Wilcoxon, Biometrics Bulletin 1
(1945) 80-83.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = [
    "SeedSummary",
    "mean_ranks",
    "nemenyi_difference",
    "paired_t",
    "pareto_front",
    "rank_groups",
    "summarize",
    "wilcoxon_exact",
]

_EXACT_UP_TO = 50  # differences; as scipy without ties


@dataclass(frozen=True)
class SeedSummary:
    """Figures of several seeds.

    Attributes:
        n: How many.
        mean: Their mean.
        sd: Their sample standard deviation; None for one seed.
        interval: The 95% t interval of the mean; None for one seed.
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


def summarize(values: Sequence[float], confidence: float = 0.95) -> SeedSummary:
    """Summarize S >= 1 figures of independent seeds.

    The interval is about the mean over seeds (which images are drawn, and how training goes), on these test images.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return SeedSummary(n, mean, None, None)
    sd = float(np.std(values, ddof=1))
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / sqrt(n)
    return SeedSummary(n, mean, sd, (mean - reach, mean + reach))


def paired_t(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value of the paired t-test over the same S seeds.

    With fewer than three seeds, or differences that do not vary at all, seeds say too little about chance: 1.
    """
    differences = np.subtract(first, second)
    if len(differences) < 3 or float(np.ptp(differences)) < 1e-12:
        return 1.0
    return float(stats.ttest_rel(first, second).pvalue)


def wilcoxon_exact(differences: ArrayLike) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test over D paired differences.

    Zeros are dropped, as Wilcoxon did, and ties share their ranks. scipy is exact without ties only; with ties, up to
    50 differences, the distribution of the rank sum is counted here.

    Args:
        differences: (D,), one a data set.

    Returns:
        p, in (0, 1]; 1 where no difference is left.
    """
    values = np.round(np.asarray(differences, dtype=float), 12)  # sums of the same figures are ties
    values = values[values != 0]
    if not len(values):
        return 1.0
    if len(np.unique(np.abs(values))) == len(values) or len(values) > _EXACT_UP_TO:
        return float(stats.wilcoxon(values, zero_method="wilcox").pvalue)
    doubled = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)  # shared ranks are halves
    patterns = np.ones(1)  # how many patterns of signs lead to each rank sum
    for rank in doubled.tolist():
        patterns = np.convolve(patterns, [1.0, *[0.0] * (rank - 1), 1.0])
    positive = int(doubled[values > 0].sum())
    tail = min(patterns[: positive + 1].sum(), patterns[positive:].sum())
    return min(1.0, 2 * float(tail / patterns.sum()))


def mean_ranks(accuracies: ArrayLike) -> NDArray[np.float64]:
    """The mean rank (M,) of methods over data sets, 1 being the best; equal accuracies share their ranks.

    Args:
        accuracies: (D, M), none missing.
    """
    scores = np.round(np.asarray(accuracies, dtype=float), 12)
    return np.asarray(stats.rankdata(-scores, axis=1).mean(axis=0))


def nemenyi_difference(n_methods: int, n_data: int, alpha: float = 0.05) -> float:
    """How far two mean ranks must be apart to differ significantly, by Nemenyi's test.

    q_alpha * sqrt(M (M + 1) / (6 D)), with q_alpha the studentized range of M groups and infinite freedom, over sqrt 2
    (Demšar 2006, section 3.2.2).
    """
    q = float(stats.studentized_range.ppf(1 - alpha, n_methods, np.inf)) / sqrt(2)
    return q * sqrt(n_methods * (n_methods + 1) / (6 * n_data))


def rank_groups(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The largest groups of methods whose mean ranks lie within a critical difference.

    Args:
        ranks: (M,) mean ranks, ascending.
        difference: From ``nemenyi_difference``.

    Returns:
        (first, last) places of each group of two or more, none inside another.
    """
    groups: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(place for place in range(len(ranks)) if ranks[place] - ranks[first] <= difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """The places that nobody beats: no other costs at most as much and gains at least as much, one of them strictly."""
    return [
        place
        for place, (cost, gain) in enumerate(zip(costs, gains, strict=True))
        if not any(
            other <= cost and more >= gain and (other < cost or more > gain)
            for other, more in zip(costs, gains, strict=True)
        )
    ]
