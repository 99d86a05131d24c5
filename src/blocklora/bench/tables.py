"""The tables of a bench: what stands in each cell, in words and figures, before it is Markdown, LaTeX or HTML.

Accuracies are in percent. "±" is the standard deviation over seeds. Bold is the best of a column, and only where it is
significantly better than every other method of the column (5%, Holm-corrected over those comparisons).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blocklora.bench.compare import (
    ALPHA,
    best_cell,
    best_mean,
    compare_pairs,
    costs,
    data_means,
    method_means,
)
from blocklora.bench.published import Published
from blocklora.bench.results import Results
from blocklora.bench.statistics import mean_ranks, nemenyi_difference, pareto_front
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
    shots_text,
    summary_text,
)

__all__ = ["Entry", "Table", "make_tables"]

_MOST_PAIRS = 45
_MIB = 1024**2


@dataclass(frozen=True)
class Entry:
    """One cell of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table ready to be written: the first column is text, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[Entry]]
    notes: list[str]


def make_tables(results: Results, published: Published) -> list[Table]:
    """Return all tables of a bench, model by model."""
    tables = []
    for model in results.models:
        tables.append(_shots_table(results, model, published))
        for shots in results.shots:
            tables += [
                _accuracy_table(results, model, shots, published),
                _interval_table(results, model, shots),
            ]
        tables += [_rank_table(results, model), _pair_table(results, model), _cost_table(results, model)]
    return [table for table in tables if table.rows] + _missing_table(results)


def _accuracy_table(results: Results, model: str, shots: int, published: Published) -> Table:
    """Methods by data sets, with the mean over data sets and the mean rank."""
    whole = results.whole_methods(model, [shots])
    best = [best_cell([results.cells[model, d, shots, m] for m in results.methods]) for d in results.data]
    best_of_mean = best_mean(results, model, [shots])
    ranks = (
        dict(zip(whole, mean_ranks(data_means(results, model, [shots], whole)), strict=True)) if whole else {}
    )
    others = published.column(model, results.data, shots)
    rows = []
    for place, method in enumerate(results.methods):
        cells = results.row(model, shots, method)
        row = [Entry(method)]
        row += [Entry(cell_text(cell), bold=best[n] == place) for n, cell in enumerate(cells)]
        if len(results.data) > 1:
            row += [
                Entry(summary_text(method_means(results, model, shots, method)), bold=method == best_of_mean),
                Entry(f"{ranks[method]:.2f}" if method in ranks else "–"),
            ]
        row += [Entry(f"{others[method]:.2f}" if method in others else "–")] if others else []
        rows.append(row)
    columns = ["method", *results.data, *(["mean", "mean rank"] if len(results.data) > 1 else [])]
    return Table(
        f"Accuracy (%), {shots_text(shots)}, {short_name(model)}",
        columns + (["published mean"] if others else []),
        rows,
        [
            f"Mean ± standard deviation over seeds {listed(results.seeds)}; test pictures: {n_test(results, model)}.",
            *left_out(results, whole),
            BOLD,
            *([f"Published mean: {published.source}; {published.note}."] if others else []),
        ],
    )


def _interval_table(results: Results, model: str, shots: int) -> Table:
    """The 95% intervals of the same figures."""
    rows = []
    for method in results.methods:
        cells = results.row(model, shots, method)
        row = [
            Entry(method),
            *(Entry(interval_text(cell.summary() if cell.runs else None)) for cell in cells),
        ]
        if len(cells) > 1:
            row.append(Entry(interval_text(method_means(results, model, shots, method))))
        rows.append(row)
    note = (
        "t intervals of the mean over seeds, which say how much drawing pictures and training matter; that the test "
        "pictures are a sample too is not in them."
    )
    columns = ["method", *results.data, *(["mean"] if len(results.data) > 1 else [])]
    few = len(results.seeds) < 2
    return Table(
        f"95% intervals, {shots_text(shots)}, {short_name(model)}", columns, [] if few else rows, [note]
    )


def _shots_table(results: Results, model: str, published: Published) -> Table:
    """The mean over data sets against shots, and what others published."""
    rows, columns = [], ["method", *map(shots_text, results.shots)]
    others = {n: published.column(model, results.data, n) for n in results.shots}
    columns += [f"published, {shots_text(n)}" for n in results.shots if others[n]]
    best = {n: best_mean(results, model, [n]) for n in results.shots}
    for method in results.methods:
        row = [Entry(method)]
        for n in results.shots:
            text = summary_text(method_means(results, model, n, method))
            row.append(Entry(text, bold=method == best[n]))
        for n in results.shots:
            if others[n]:
                row.append(Entry(f"{others[n][method]:.2f}" if method in others[n] else "–"))
        rows.append(row)
    if any(others.values()):
        ours = set(results.methods)
        for method in dict.fromkeys(
            name for column in others.values() for name in column if name not in ours
        ):
            cells = [Entry(f"{others[n][method]:.2f}") for n in results.shots if others[n]]
            rows.append([Entry(method), *(Entry("–") for _ in results.shots), *cells])
    notes = [
        f"Mean over {listed(results.data)}; ± standard deviation of that mean over seeds {listed(results.seeds)}.",
        BOLD,
    ]
    notes += [f"Published: {published.source}; {published.note}."] if any(others.values()) else []
    return Table(
        f"Mean accuracy (%) over data sets, {short_name(model)}",
        columns,
        rows,
        notes + incomplete(results, model),
    )


def _rank_table(results: Results, model: str) -> Table:
    """Mean ranks over data sets, at each number of shots and of the mean over shots, with critical differences."""
    groups = [[n] for n in results.shots] + ([results.shots] if len(results.shots) > 1 else [])
    ranks: list[dict[str, float]] = []
    notes = []
    for shots in groups:
        methods = results.whole_methods(model, shots)
        comparable = len(methods) > 1 and len(results.data) > 1
        means = mean_ranks(data_means(results, model, shots, methods)).tolist() if comparable else []
        ranks.append(dict(zip(methods if comparable else [], means, strict=True)))
    columns = ["method", *(shots_text(s[0]) if len(s) == 1 else "mean of shots" for s in groups)]
    ranked = [method for method in results.methods if any(method in column for column in ranks)]
    rows = [
        [Entry(method), *(Entry(f"{column[method]:.2f}" if method in column else "–") for column in ranks)]
        for method in ranked
    ]
    limits = [nemenyi_difference(len(column), len(results.data)) if column else None for column in ranks]
    if rows:
        rows.append(
            [Entry("critical difference"), *(Entry("–" if cd is None else f"{cd:.2f}") for cd in limits)]
        )
        notes = [
            f"1 is the best. Ranks over {len(results.data)} data sets; two methods differ significantly (5%, Nemenyi) "
            "where their mean ranks are further apart than the critical difference.",
            *few_data(results),
            *left_out(results, ranked),
        ]
    return Table(f"Mean ranks, {short_name(model)}", columns, rows, notes)


def _pair_table(results: Results, model: str) -> Table:
    """Wilcoxon tests of all pairs, on the mean over shots."""
    pairs = compare_pairs(results, model, results.shots) if len(results.data) > 1 else []
    rows = [
        [
            Entry(f"{pair.first} – {pair.second}"),
            Entry(f"{pair.difference:+.2f}"),
            Entry(f"{pair.won} / {pair.lost}"),
            Entry(p_text(pair.p)),
            Entry(p_text(pair.p_holm), bold=pair.p_holm <= ALPHA),
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
    methods = list(found)
    fronts: dict[str, set[str]] = {}
    for name in ("trained numbers", "seconds", "memory"):
        front = pareto_front([found[m][name] for m in methods], [found[m]["accuracy"] for m in methods])
        fronts[name] = {methods[place] for place in front}
    write: dict[str, Callable[[float], str]] = {
        "trained numbers": lambda value: f"{value:,.0f}",
        "seconds": lambda value: f"{value:.1f}",
        "memory": lambda value: f"{value / _MIB:,.0f}",
    }
    rows = [
        [Entry(method), Entry(f"{100 * cost['accuracy']:.1f}")]
        + [Entry(write[name](cost[name]) + ("*" if method in fronts[name] else "")) for name in write]
        for method, cost in found.items()
    ]
    notes = [
        "Means over data sets and seeds. * no other method is at least as accurate for at most this cost (Pareto "
        f"front). {machines(results, model)}",
        *left_out(results, methods),
    ]
    columns = ["method", "accuracy (%)", "trained numbers", "training seconds", "peak memory (MiB)"]
    return Table(f"Cost, {shots_text(shots)}, {short_name(model)}", columns, rows, notes)


def _missing_table(results: Results) -> list[Table]:
    """Runs that failed, and how many are missing."""
    rows = []
    for (model, data, shots, method), cell in results.cells.items():
        missing = [seed for seed in cell.planned if seed not in cell.runs and seed not in cell.failed]
        where = [method, data, str(shots), short_name(model)]
        rows += [
            [*map(Entry, where), Entry(str(seed)), Entry(f"failed: {why}")]
            for seed, why in cell.failed.items()
        ]
        if missing:
            rows.append([*map(Entry, where), Entry(listed(missing)), Entry("missing")])
    columns = ["method", "data", "shots", "model", "seeds", "what happened"]
    return [Table("Failed and missing runs", columns, rows, [])] if rows else []
