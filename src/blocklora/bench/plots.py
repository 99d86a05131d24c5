"""The drawings of a bench, by matplotlib (the extra ``bench``): readable in grey and for colour-blind readers.

Every method has a colour of Okabe and Ito's palette, a marker and a line style of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blocklora.bench.compare import MethodCost, costs, method_mean, rank_methods
from blocklora.bench.results import Results
from blocklora.bench.statistics import pareto_front, rank_groups
from blocklora.bench.words import short_name
from blocklora.core.errors import ConfigError

__all__ = ["draw_all"]

# Okabe & Ito, Color Universal Design (2008); their yellow is too pale for lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", "--", ":", "-.")
_MANY = 10  # methods; beyond, panels are larger
_STYLE: Any = {
    "svg.hashsalt": "blocklora",  # the same drawing is the same file
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw_all(results: Results) -> dict[str, dict[str, bytes]]:
    """Draw accuracy against shots and costs, and the ranks, for every model.

    Returns:
        By caption: the drawing as ``svg``, ``pdf`` and ``png``. What there are too few figures for is left out.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib, which is not installed: pip install 'blocklora[bench]', or add --no-plots."
        ) from error
    drawn = {}
    with matplotlib.rc_context(_STYLE):
        for model in results.models:
            for caption, draw in (
                ("Accuracy against shots", _shots_figure),
                ("Accuracy against cost", _cost_figure),
                ("Mean ranks", _rank_figure),
            ):
                figure = Figure(layout="constrained")
                if draw(figure, results, model):
                    drawn[f"{caption}, {short_name(model)}"] = {
                        kind: _file(figure, kind) for kind in ("svg", "pdf", "png")
                    }
    return drawn


def _file(figure: Any, kind: str) -> bytes:
    """Return a drawing as a file, without a date in it."""
    stream = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    figure.savefig(stream, format=kind, metadata=metadata, dpi=160, bbox_inches="tight")
    return stream.getvalue()


def _style(place: int) -> Mapping[str, Any]:
    """Return colour, marker and line style of the method at a place; 63 of them differ."""
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)],
        "linestyle": _LINES[(place // len(_COLOURS)) % len(_LINES)],
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def _shots_figure(figure: Any, results: Results, model: str) -> bool:
    """One panel for the mean over data sets and one for each data set; bars are 95% intervals over seeds."""
    if len(results.shots) < 2:
        return False
    panels: list[str | None] = [None] if len(results.compared_data) > 1 else []
    panels += results.data
    columns = min(len(panels), 4 if len(results.methods) <= _MANY else 2)
    rows = -(-len(panels) // columns)
    width, height = (3.0, 2.6) if len(results.methods) <= _MANY else (4.5, 3.6)
    figure.set_size_inches(width * columns + 0.4, height * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for axis, data in zip(axes, panels, strict=False):
        for place, method in enumerate(results.methods):
            xs, ys, bars = _curve(results, model, method, data)
            if xs:
                axis.errorbar(xs, ys, yerr=bars, label=method, linewidth=1.2, elinewidth=0.6, **_style(place))
        axis.set_xscale("log", base=2)
        axis.set_xticks(results.shots, [str(n) for n in results.shots], minor=False)
        axis.set_title(data or "mean over data sets", fontsize=9)
        axis.tick_params(labelbottom=True)
    for axis in list(axes)[len(panels) :]:
        axis.remove()
    figure.supxlabel("shots", fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    return _legend(figure)


def _curve(
    results: Results, model: str, method: str, data: str | None
) -> tuple[list[int], list[float], list[float]]:
    """Return shots, accuracies and half widths of their intervals; only whole cells are drawn."""
    xs, ys, bars = [], [], []
    for shots in results.shots:
        cell = results.cells[model, data, shots, method] if data else None
        if cell is not None and not cell.whole:
            continue
        found = cell.summary() if cell else method_mean(results, model, shots, method)
        if found is not None:
            xs.append(shots)
            ys.append(100 * found.mean)
            bars.append(100 * (found.interval[1] - found.mean) if found.interval else 0.0)
    return xs, ys, bars


def _cost_figure(figure: Any, results: Results, model: str) -> bool:
    """Accuracy at the most shots against trained parameters, time and memory; the line is the Pareto front."""
    found = costs(results, model, results.shots[-1])
    if not found:
        return False
    figure.set_size_inches(9.6, 3.2)
    panels: dict[str, Callable[[MethodCost], float]] = {
        "trained parameters": lambda cost: cost.parameters,
        "training time (s)": lambda cost: cost.seconds,
        "peak memory (GiB)": lambda cost: cost.memory / 1024**3,
    }
    axes = figure.subplots(1, 3, sharey=True)
    for axis, (label, of) in zip(axes, panels.items(), strict=True):
        points = {method: (of(cost), 100 * cost.accuracy) for method, cost in found.items()}
        for method, (x, y) in points.items():
            point = {"linestyle": "none", "markersize": 7, "clip_on": False}
            axis.plot([x], [y], label=method, **{**_style(results.methods.index(method)), **point})
        _draw_front(axis, list(points.values()))
        if "memory" not in label:
            _log_scale_with_zero(axis, [x for x, _ in points.values()])
        axis.set_xlabel(label)
    axes[0].set_ylabel(f"accuracy (%), {results.shots[-1]} shots")
    return _legend(figure)


def _log_scale_with_zero(axis: Any, xs: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, with a place for 0."""
    smallest = min((x for x in xs if x > 0), default=1.0)
    axis.set_xscale("symlog", linthresh=smallest)
    axis.set_xlim(left=0)
    axis.set_xticks([tick for tick in axis.get_xticks() if tick == 0 or tick >= smallest])


def _draw_front(axis: Any, points: Sequence[tuple[float, float]]) -> None:
    """Draw the Pareto front as steps."""
    front = pareto_front([x for x, _ in points], [y for _, y in points])
    xs, ys = zip(*sorted(points[place] for place in front), strict=True)
    axis.plot(xs, ys, drawstyle="steps-post", color="#888888", linewidth=1, zorder=1)


def _rank_figure(figure: Any, results: Results, model: str) -> bool:
    """Demšar's diagram of the mean ranks: bars join methods that do not differ significantly."""
    ranking = rank_methods(results, model, results.shots)
    if ranking.difference is None:
        return False
    ordered = sorted(ranking.ranks, key=lambda method: ranking.ranks[method])
    ranks = [ranking.ranks[method] for method in ordered]
    groups = rank_groups(ranks, ranking.difference)
    figure.set_size_inches(6.4, 0.9 + 0.24 * len(ordered) + 0.12 * len(groups))
    axis = figure.subplots()
    for place, (method, rank) in enumerate(zip(ordered, ranks, strict=True)):
        axis.plot([rank], [place], **{**_style(results.methods.index(method)), "markersize": 7})
        axis.annotate(f"{rank:.2f}", (rank, place), (7, -3), textcoords="offset points", fontsize=7)
    for n, (first, last) in enumerate(groups):
        height = len(ordered) - 0.3 + 0.5 * n
        ends = [ranks[first] - 0.03, ranks[last] + 0.03]
        axis.plot(ends, [height] * 2, color="black", linewidth=2.5)
    axis.set_yticks(range(len(ordered)), ordered)
    axis.set_ylim(len(ordered) + 0.5 * len(groups), -0.7)
    axis.set_xlim(0.6, len(ordered) + 0.4)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel(
        f"mean rank over {len(results.compared_data)} data sets (1 is best); bars join what differs by less than the "
        f"critical {ranking.difference:.2f}",
        fontsize=8,
    )
    return True


def _legend(figure: Any) -> bool:
    """Put one legend beside all panels; whether there is anything in it."""
    known: dict[str, object] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if known:
        figure.legend(known.values(), known.keys(), loc="outside right center")
    return bool(known)
