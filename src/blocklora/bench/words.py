"""The words of a bench's tables: figures as text, and the notes that say what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blocklora.bench.results import Cell, Results
from blocklora.bench.statistics import SeedSummary

__all__ = [
    "BOLD",
    "cell_text",
    "few_data",
    "incomplete",
    "interval_text",
    "left_out",
    "listed",
    "machines",
    "n_test",
    "p_text",
    "short_name",
    "summary_text",
]

BOLD = (
    "Bold: the best of its column, where it is significantly better than every other method (5%, Holm): on a data set "
    "by paired t-tests over three seeds or more, in the mean by Wilcoxon tests over data sets."
)


def cell_text(cell: Cell) -> str:
    """Return mean ± sd, with what is missing."""
    if not cell.runs:
        return "failed" if cell.failed else "missing"
    text = summary_text(cell.summary())
    return text if cell.whole else f"{text} ({len(cell.runs)} of {len(cell.planned)} seeds)"


def summary_text(summary: SeedSummary | None) -> str:
    """Return mean ± sd in percent."""
    if summary is None:
        return "–"
    return f"{100 * summary.mean:.1f}" + ("" if summary.sd is None else f" ± {100 * summary.sd:.1f}")


def interval_text(summary: SeedSummary | None) -> str:
    """Return an interval in percent."""
    if summary is None or summary.interval is None:
        return "–"
    low, high = summary.interval
    return f"{100 * max(low, 0):.1f} to {100 * min(high, 1):.1f}"


def p_text(p: float) -> str:
    """Return a p-value to three places."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def short_name(model: str) -> str:
    """Return a model's name without its owner or folder."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def listed(values: Sequence[Any]) -> str:
    """Return values with commas between them."""
    return ", ".join(map(str, values))


def n_test(results: Results, model: str) -> str:
    """Say how many test images each data set has."""
    sizes = []
    for data in results.data:
        cells = [cell for (m, d, _, _), cell in results.cells.items() if (m, d) == (model, data)]
        found = sorted({run.n_test for cell in cells for run in cell.runs.values()})
        sizes.append(f"{data} {listed(found) or '?'}")
    return listed(sizes)


def machines(results: Results, model: str) -> str:
    """Say on what the costs were measured."""
    found = {machine for (m, *_), cell in results.cells.items() if m == model for machine in cell.machines}
    texts = {
        f"{listed(machine.gpus) or f'{machine.cores} CPU cores'}, {machine.workers} at once with "
        f"{machine.threads} threads each"
        for machine in found
    }
    kind = (
        "torch's peak on the GPU"
        if any(machine.gpus for machine in found)
        else "the whole process, with what earlier runs left in it: differences of some tens of MiB mean nothing"
    )
    return f"Measured on: {'; '.join(sorted(texts))}. Memory: {kind}."


def left_out(results: Results, kept: Sequence[str]) -> list[str]:
    """Name the methods that are not averaged, ranked or tested."""
    left = [method for method in results.methods if method not in kept]
    return [f"With runs missing or failed, and in no mean, rank or test: {listed(left)}."] if left else []


def incomplete(results: Results, model: str) -> list[str]:
    """Say that a dash stands for a mean that would be over other data sets or seeds than its neighbours."""
    if all(results.whole_methods(model, [n]) == results.methods for n in results.shots):
        return []
    return ["–: runs are missing or failed, so there is no mean over the same data sets and seeds."]


def few_data(results: Results) -> list[str]:
    """Say when a test over data sets cannot be significant, whatever the figures."""
    n = len(results.compared_data)
    return [f"With {n} data sets no Wilcoxon test can reach 5% (least p: {2 / 2**n:.3f})."] if n < 6 else []
