"""Methods compared: only cells that are whole take part, so that all figures stand for the same seeds and data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from blocklora.bench.results import Results
from blocklora.bench.statistics import (
    SeedSummary,
    mean_ranks,
    nemenyi_difference,
    paired_t,
    summarize,
    wilcoxon_exact,
)
from blocklora.metrics import holm

__all__ = [
    "ALPHA",
    "MethodCost",
    "MethodPair",
    "Ranking",
    "best_mean",
    "best_on",
    "compare_pairs",
    "costs",
    "method_mean",
    "rank_methods",
]

ALPHA = 0.05


@dataclass(frozen=True)
class MethodPair:
    """Two methods compared over data sets: mean difference in points, data sets won and lost, p and Holm's p."""

    first: str
    second: str
    difference: float
    won: int
    lost: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class MethodCost:
    """A method's mean accuracy (0 to 1), trained parameters, training seconds and peak bytes."""

    accuracy: float
    parameters: float
    seconds: float
    memory: float


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over data sets, 1 being the best, and how far two must be apart to differ significantly.

    Attributes:
        ranks: By method; a method of two names has the same rank under both. Empty where nothing can be compared.
        difference: Nemenyi's critical difference at 5%; None where nothing can be compared.
    """

    ranks: dict[str, float]
    difference: float | None


def method_mean(results: Results, model: str, shots: int, method: str) -> SeedSummary | None:
    """Summarize a method's mean accuracy over all data sets, seed by seed; None unless all cells are whole."""
    cells = [results.cells[model, data, shots, method] for data in results.compared_data]
    if not all(cell.whole for cell in cells):
        return None
    return summarize(np.mean([cell.values() for cell in cells], axis=0).tolist())


def _data_means(
    results: Results, model: str, shots: Sequence[int], methods: Sequence[str]
) -> NDArray[np.float64]:
    """Return mean accuracies (data sets, methods), each over the seeds and the given shots; all cells must be whole."""
    return np.array(
        [
            [np.mean([results.cells[model, data, n, method].values() for n in shots]) for method in methods]
            for data in results.compared_data
        ]
    )


def rank_methods(results: Results, model: str, shots: Sequence[int]) -> Ranking:
    """Rank the whole methods over data sets, by accuracies averaged over these shots."""
    methods, n_data = results.compared_methods(model, shots), len(results.compared_data)
    if len(methods) < 2 or n_data < 2:
        return Ranking({}, None)
    found = mean_ranks(_data_means(results, model, shots, methods)).tolist()
    ranks = dict(zip(methods, found, strict=True))
    whole = results.whole_methods(model, shots)
    return Ranking(
        {method: ranks[results.same_methods.get(method, method)] for method in whole},
        nemenyi_difference(len(methods), n_data),
    )


def compare_pairs(results: Results, model: str, shots: Sequence[int]) -> list[MethodPair]:
    """Compare all pairs of whole methods over data sets by Wilcoxon's test; small p and large differences first."""
    methods = results.compared_methods(model, shots)
    if len(methods) < 2:
        return []
    means = _data_means(results, model, shots, methods)
    pairs = list(combinations(range(len(methods)), 2))
    differences = [means[:, a] - means[:, b] for a, b in pairs]
    p_values = [wilcoxon_exact(d) for d in differences]
    found = [
        MethodPair(
            methods[a], methods[b], 100 * float(d.mean()), int((d > 0).sum()), int((d < 0).sum()), p, p_holm
        )
        for (a, b), d, p, p_holm in zip(pairs, differences, p_values, holm(p_values), strict=True)
    ]
    return sorted(found, key=lambda pair: (pair.p, -abs(pair.difference)))


def costs(results: Results, model: str, shots: int) -> dict[str, MethodCost]:
    """Return the cost of every whole method: means over data sets and seeds."""

    def mean(method: str, name: str) -> float:
        cells = [results.cells[model, data, shots, method] for data in results.compared_data]
        return float(np.mean([cell.values(name) for cell in cells]))

    return {
        method: MethodCost(
            accuracy=mean(method, "accuracy"),
            parameters=mean(method, "trainable_parameters"),
            seconds=mean(method, "train_seconds"),
            memory=mean(method, "peak_memory_bytes"),
        )
        for method in results.whole_methods(model, [shots])
    }


def best_on(results: Results, model: str, data: str, shots: int) -> list[str]:
    """Return the best method on a data set, by all of its names.

    It is empty unless the best is significantly better than every other method that is whole there (paired t over
    seeds).
    """
    cells = {
        method: results.cells[model, data, shots, method]
        for method in results.methods
        if method not in results.same_methods
    }
    whole = {method: cell for method, cell in cells.items() if cell.whole}
    if len(whole) < 2:
        return []
    best = max(whole, key=lambda method: whole[method].summary().mean)
    others = [cell for method, cell in whole.items() if method != best]
    p_values = holm([paired_t(whole[best].values(), other.values()) for other in others])
    better = all(whole[best].summary().mean > other.summary().mean for other in others)
    return _names(results, best) if better and max(p_values) <= ALPHA else []


def best_mean(results: Results, model: str, shots: Sequence[int]) -> list[str]:
    """Return the method with the best mean over data sets, by all of its names.

    It is empty unless the best is significantly better than every other whole method (Wilcoxon over data sets).
    """
    methods = results.compared_methods(model, shots)
    if len(methods) < 2:
        return []
    means = _data_means(results, model, shots, methods)
    best = int(means.mean(axis=0).argmax())
    differences = [means[:, best] - means[:, place] for place in range(len(methods)) if place != best]
    better = all(d.mean() > 0 for d in differences)
    significant = max(holm([wilcoxon_exact(d) for d in differences])) <= ALPHA
    return _names(results, methods[best]) if better and significant else []


def _names(results: Results, method: str) -> list[str]:
    """Return all names of a method."""
    return [name for name in results.methods if results.same_methods.get(name, name) == method]
