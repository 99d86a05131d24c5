"""Methods compared: only cells that are whole take part, so that all figures stand for the same seeds and data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from blocklora.bench.results import Cell, Results
from blocklora.bench.statistics import Summary, holm, paired_t, summarize, wilcoxon_exact

__all__ = ["ALPHA", "Pair", "best_cell", "best_mean", "compare_pairs", "costs", "data_means", "method_means"]

ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """Two methods compared over data sets: mean difference in points, data sets won and lost, p and Holm's p."""

    first: str
    second: str
    difference: float
    won: int
    lost: int
    p: float
    p_holm: float


def method_means(results: Results, model: str, shots: int, method: str) -> Summary | None:
    """Summarize a method's mean accuracy over all data sets, seed by seed; None unless all cells are whole."""
    cells = results.row(model, shots, method)
    if not all(cell.whole for cell in cells):
        return None
    return summarize(np.mean([cell.values() for cell in cells], axis=0).tolist())


def data_means(
    results: Results, model: str, shots: Sequence[int], methods: Sequence[str]
) -> NDArray[np.float64]:
    """Return mean accuracies (data sets, methods), each over the seeds and the given shots; all cells must be whole."""
    return np.array(
        [
            [np.mean([results.cells[model, data, n, method].values() for n in shots]) for method in methods]
            for data in results.data
        ]
    )


def compare_pairs(results: Results, model: str, shots: Sequence[int]) -> list[Pair]:
    """Compare all pairs of whole methods over data sets by Wilcoxon's test; small p and large differences first."""
    methods = results.whole_methods(model, shots)
    if len(methods) < 2:
        return []
    means = data_means(results, model, shots, methods)
    pairs = list(combinations(range(len(methods)), 2))
    differences = [means[:, a] - means[:, b] for a, b in pairs]
    p_values = [wilcoxon_exact(d) for d in differences]
    found = [
        Pair(methods[a], methods[b], 100 * float(d.mean()), int((d > 0).sum()), int((d < 0).sum()), p, p_holm)
        for (a, b), d, p, p_holm in zip(pairs, differences, p_values, holm(p_values), strict=True)
    ]
    return sorted(found, key=lambda pair: (pair.p, -abs(pair.difference)))


def costs(results: Results, model: str, shots: int) -> dict[str, dict[str, float]]:
    """Return mean accuracy, trained numbers, seconds and memory of every whole method, over data sets and seeds."""
    names = {
        "accuracy": "accuracy",
        "trained numbers": "trainable_parameters",
        "seconds": "train_seconds",
        "memory": "peak_memory_bytes",
    }
    return {
        method: {
            name: float(np.mean([cell.values(key) for cell in results.row(model, shots, method)]))
            for name, key in names.items()
        }
        for method in results.whole_methods(model, [shots])
    }


def best_cell(cells: Sequence[Cell]) -> int | None:
    """Return the place of the best whole cell, if it is significantly better than all others (paired t over seeds)."""
    whole = [place for place, cell in enumerate(cells) if cell.whole]
    if len(whole) < 2:
        return None
    best = max(whole, key=lambda place: cells[place].summary().mean)
    others = [cells[place] for place in whole if place != best]
    p_values = holm([paired_t(cells[best].values(), other.values()) for other in others])
    better = all(cells[best].summary().mean > other.summary().mean for other in others)
    return best if better and max(p_values) <= ALPHA else None


def best_mean(results: Results, model: str, shots: Sequence[int]) -> str | None:
    """Return the method with the best mean, if it is significantly better than all others (Wilcoxon over data sets)."""
    methods = results.whole_methods(model, shots)
    if len(methods) < 2:
        return None
    means = data_means(results, model, shots, methods)
    best = int(means.mean(axis=0).argmax())
    differences = [means[:, best] - means[:, place] for place in range(len(methods)) if place != best]
    better = all(d.mean() > 0 for d in differences)
    return methods[best] if better and max(holm([wilcoxon_exact(d) for d in differences])) <= ALPHA else None
