"""The tables of a bench: what stands in each cell, in words and figures, before it is Markdown, LaTeX or HTML.

Accuracies are in percent. "±" is the standard deviation over seeds. Bold is the best of a column, and only where it is
significantly better than every other method of the column (5%, Holm-corrected over those comparisons).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blocklora.bench.compare import (
    ALPHA,
    MethodCost,
    best_mean,
    best_on,
    compare_pairs,
    costs,
    method_mean,
    rank_methods,
)
from blocklora.bench.published import PublishedMeans
from blocklora.bench.results import Results
from blocklora.bench.statistics import pareto_front
from blocklora.bench.words import (
    BOLD,
    cell_text,
    few_data,
    incomplete,
    interval_text,
    left_out,
    listed,
    machines,
    n_test,
    p_text,
    short_name,
    summary_text,
)
from blocklora.core.words import count

__all__ = ["Table", "TableCell", "make_tables"]

_MOST_PAIRS = 45
_MIB = 1024**2
_NONE = "–"


@dataclass(frozen=True)
class TableCell:
    """One cell of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table ready to be written: the first column is text, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[TableCell]]
    notes: list[str]


def make_tables(results: Results, published: PublishedMeans) -> list[Table]:
    """Return all tables of a bench, model by model."""
    tables = []
    for model in results.models:
        tables.append(_shots_table(results, model, published))
        for shots in results.shots:
            tables.append(_accuracy_table(results, model, shots, published))
            tables.append(_interval_table(results, model, shots))
        tables += [_rank_table(results, model), _pair_table(results, model), _cost_table(results, model)]
    tables.append(_missing_table(results))
    return [table for table in tables if table.rows]


def _accuracy_table(results: Results, model: str, shots: int, published: PublishedMeans) -> Table:
    """Methods by data sets, with the mean over data sets and the mean rank."""
    best = {data: best_on(results, model, data, shots) for data in results.data}
    best_of_mean = best_mean(results, model, [shots])
    ranks = rank_methods(results, model, [shots]).ranks
    others = published.column(model, results.data, shots)
    several = len(results.compared_data) > 1
    rows = []
    for method in results.methods:
        row = [TableCell(method)]
        for data, cell in zip(results.data, results.row(model, shots, method), strict=True):
            row.append(TableCell(cell_text(cell), bold=method in best[data]))
        if several:
            mean = summary_text(method_mean(results, model, shots, method))
            row += [TableCell(mean, bold=method in best_of_mean), _figure(ranks, method)]
        row += [_figure(others, method)] if others else []
        rows.append(row)
    columns = ["method", *results.data, *(["mean", "mean rank"] if several else [])]
    notes = [
        f"Mean ± standard deviation over seeds {listed(results.seeds)}; test images: {n_test(results, model)}.",
        *left_out(results, results.whole_methods(model, [shots])),
        BOLD,
        *([f"Published mean: {published.source}; {published.note}."] if others else []),
    ]
    title = f"Accuracy (%), {count(shots, 'shot')}, {short_name(model)}"
    return Table(title, columns + (["published mean"] if others else []), rows, notes)


def _interval_table(results: Results, model: str, shots: int) -> Table:
    """The 95% intervals of the same figures; empty for one seed."""
    several = len(results.compared_data) > 1
    rows = []
    for method in results.methods if len(results.seeds) > 1 else []:
        cells = results.row(model, shots, method)
        texts = [interval_text(cell.summary() if cell.runs else None) for cell in cells]
        texts += [interval_text(method_mean(results, model, shots, method))] if several else []
        rows.append([TableCell(method), *map(TableCell, texts)])
    note = (
        "t intervals of the mean over seeds, which say how much drawing images and training matter; that the test "
        "images are a sample too is not in them."
    )
    columns = ["method", *results.data, *(["mean"] if several else [])]
    return Table(f"95% intervals, {count(shots, 'shot')}, {short_name(model)}", columns, rows, [note])


def _shots_table(results: Results, model: str, published: PublishedMeans) -> Table:
    """The mean over data sets against shots, and what others published."""
    columns = {n: published.column(model, results.data, n) for n in results.shots}
    others = {n: column for n, column in columns.items() if column}
    best = {n: best_mean(results, model, [n]) for n in results.shots}
    theirs = dict.fromkeys(name for column in others.values() for name in column)
    rows = []
    for method in dict.fromkeys([*results.methods, *theirs]):
        row = [TableCell(method)]
        for n in results.shots:
            mean = method_mean(results, model, n, method) if method in results.methods else None
            row.append(TableCell(summary_text(mean), bold=method in best[n]))
        rows.append(row + [_figure(column, method) for column in others.values()])
    notes = [
        f"Mean over {listed(results.compared_data)}; ± standard deviation of that mean over seeds "
        f"{listed(results.seeds)}.",
        BOLD,
        *([f"Published: {published.source}; {published.note}."] if others else []),
        *incomplete(results, model),
    ]
    headings = [
        "method",
        *(count(n, "shot") for n in results.shots),
        *(f"published, {count(n, 'shot')}" for n in others),
    ]
    return Table(f"Mean accuracy (%) over data sets, {short_name(model)}", headings, rows, notes)


def _rank_table(results: Results, model: str) -> Table:
    """Mean ranks over data sets, at each number of shots and of the mean over shots, with critical differences."""
    groups = results.shot_groups
    rankings = [rank_methods(results, model, shots) for shots in groups]
    ranked = [method for method in results.methods if any(method in found.ranks for found in rankings)]
    rows = [[TableCell(method), *(_figure(found.ranks, method) for found in rankings)] for method in ranked]
    if rows:
        limits = [_NONE if found.difference is None else f"{found.difference:.2f}" for found in rankings]
        rows.append([TableCell("critical difference"), *map(TableCell, limits)])
    notes = [
        f"1 is the best. Ranks over {len(results.compared_data)} data sets; two methods differ significantly (5%, "
        "Nemenyi) where their mean ranks are further apart than the critical difference.",
        *few_data(results),
        *left_out(results, ranked),
    ]
    columns = ["method", *(count(s[0], "shot") if len(s) == 1 else "mean of shots" for s in groups)]
    return Table(f"Mean ranks, {short_name(model)}", columns, rows, notes)


def _pair_table(results: Results, model: str) -> Table:
    """Wilcoxon tests of all pairs, on the mean over shots."""
    pairs = compare_pairs(results, model, results.shots) if len(results.compared_data) > 1 else []
    rows = [
        [
            TableCell(f"{pair.first} – {pair.second}"),
            TableCell(f"{pair.difference:+.2f}"),
            TableCell(f"{pair.won} / {pair.lost}"),
            TableCell(p_text(pair.p)),
            TableCell(p_text(pair.p_holm), bold=pair.p_holm <= ALPHA),
        ]
        for pair in pairs[:_MOST_PAIRS]
    ]
    left = len(pairs) - len(rows)
    notes = [
        "Wilcoxon signed-rank tests over data sets, of accuracies averaged over seeds and shots; p corrected by Holm "
        f"over all {len(pairs)} pairs; bold: at most 5%.",
        *([f"{left} more pairs with larger p are in tests.csv."] if left else []),
        *few_data(results),
    ]
    columns = ["methods", "difference (points)", "data sets won / lost", "p", "p (Holm)"]
    return Table(f"Pairs of methods, {short_name(model)}", columns, rows, notes)


def _cost_table(results: Results, model: str) -> Table:
    """What methods cost at the most shots, and which are on the Pareto front of each cost."""
    shots = results.shots[-1]
    found = costs(results, model, shots)
    marks = [_front(found, name) for name in ("parameters", "seconds", "memory")]
    rows = []
    for method, cost in found.items():
        texts = [f"{cost.parameters:,.0f}", f"{cost.seconds:.1f}", f"{cost.memory / _MIB:,.0f}"]
        marked = [text + "*" * (method in front) for text, front in zip(texts, marks, strict=True)]
        rows.append([*map(TableCell, (method, f"{100 * cost.accuracy:.1f}", *marked))])
    notes = [
        "Means over data sets and seeds. * no other method is at least as accurate for at most this cost (Pareto "
        f"front). {machines(results, model)}",
        *left_out(results, list(found)),
    ]
    columns = ["method", "accuracy (%)", "trained parameters", "training seconds", "peak memory (MiB)"]
    return Table(f"Cost, {count(shots, 'shot')}, {short_name(model)}", columns, rows, notes)


def _front(found: Mapping[str, MethodCost], name: str) -> set[str]:
    """Return the methods on the Pareto front of accuracy and a cost."""
    methods = list(found)
    front = pareto_front(
        [getattr(cost, name) for cost in found.values()], [cost.accuracy for cost in found.values()]
    )
    return {methods[place] for place in front}


def _missing_table(results: Results) -> Table:
    """Runs that failed, and how many are missing."""
    rows = []
    for (model, data, shots, method), cell in results.cells.items():
        where = [method, data, str(shots), short_name(model)]
        for seed, error in cell.failed.items():
            rows.append([*map(TableCell, [*where, str(seed), f"failed: {error}"])])
        missing = [seed for seed in cell.planned if seed not in cell.runs and seed not in cell.failed]
        if missing:
            rows.append([*map(TableCell, [*where, listed(missing), "missing"])])
    columns = ["method", "data", "shots", "model", "seeds", "what happened"]
    return Table("Failed and missing runs", columns, rows, [])


def _figure(figures: Mapping[str, float], method: str) -> TableCell:
    """Return a method's figure to two places, or a dash."""
    return TableCell(f"{figures[method]:.2f}" if method in figures else _NONE)
