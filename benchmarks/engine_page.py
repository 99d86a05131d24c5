"""Brings docs/engine.md up to date with benchmarks/results: its tables and its two plots.

python benchmarks/engine_page.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from blocklora.training.memory.limits import CPU_FIRST
from blocklora.training.step import Plan

__all__ = ["between", "write_page"]

_ROOT = Path(__file__).parents[1]
_RESULTS, _PAGE, _IMAGES = (
    _ROOT / "benchmarks" / "results",
    _ROOT / "docs" / "engine.md",
    _ROOT / "docs" / "img",
)
_PEFT, _FROZEN = "PEFT LoRA, padded to the longest", "frozen forward"
_COLOURS = {"ViT-B/32": "#4477aa", "ViT-B/16": "#228833", "ViT-L/14": "#cc6677", "ViT-L/14@336": "#aa3377"}
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "blocklora",
    "svg.fonttype": "none",
}


def write_page() -> None:
    """Write every table and plot whose numbers are there."""
    page = _PAGE.read_text(encoding="utf-8")
    with plt.rc_context(_STYLE):
        if targets := _read("targets.json"):
            page = between(page, "targets", _targets(targets))
        if engine := _read("engine.json"):
            page = between(page, "levels", _levels(engine))
            _plot_levels(engine["cpu"])
        if scaling := _read("scaling.json"):
            page = between(page, "scaling", _scaling(scaling))
            _plot_scaling(scaling)
        if largest := _read("largest.json"):
            page = between(page, "largest", _largest(largest))
        if demo := _read("demo_speed.json"):
            page = between(page, "demo", _demo(demo))
    _PAGE.write_text(page, encoding="utf-8")


def _read(name: str) -> Any:
    path = _RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def between(page: str, name: str, text: str) -> str:
    """Put a text between the page's two marks of that name."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = page.split(start)
    return before + start + text + "\n" + end + rest.split(end)[1]


def _made_on(result: dict[str, Any]) -> str:
    commit = (
        f"{(result['git_commit'] or 'unknown')[:10]}{', changed' if result['changed_since_commit'] else ''}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"Commit {commit}; {result['machine']}{'; ' + result['gpu'] if result['gpu'] else ''}; {versions}."


def _targets(result: dict[str, Any]) -> str:
    rows = [
        f"| {row['name'].split(' (')[0]} | {row['figure']:.3g} | {'>=' if row['at_least'] else '<='} {row['bound']:g} "
        f"| {'met' if row['met'] else '**missed**'} |"
        for row in result["targets"]
    ]
    head = ["| target | figure | asked for | |", "|---|---:|---:|---|"]
    note = f"`python benchmarks/targets.py --rounds {result['rounds']}`. {_made_on(result)}"
    return "\n".join([*head, *rows, "", note])


def _levels(result: dict[str, Any]) -> str:
    head = [
        "| images : classes | variant | GFLOP | saved MB | CPU s | time over frozen forward | times faster than PEFT "
        "| peak MB above start |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [_level_row(row) for row in result["cpu"] + ([result["full"]] if result["full"] else [])]
    gpu = [_gpu_row(row) for row in result["gpu_rows"]] or ["| | | | | | | |"]
    note = f"`python benchmarks/engine.py --rounds {result['rounds']}`. {_made_on(result)}"
    gpu_head = [
        "| GPU: backbone | images : classes | type | variant | ms a step | images a second | peak MB |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    fits = [
        f"- {row['backbone']}, 32 images, 1000 classes in {row['memory'] / 1e9:g} GB of GPU memory: "
        f"{'fits' if row['fits'] else 'does not fit'}"
        for row in result["gpu_fits"]
    ]
    image = ["![FLOPs and saved bytes of each level](img/engine_levels.svg)", ""]
    return "\n".join([*image, *head, *rows, "", note, "", *gpu_head, *gpu, *(["", *fits] if fits else [])])


def _level_row(row: dict[str, Any]) -> str:
    timed = "seconds" in row
    seconds = statistics.median(row["seconds"]) if timed else row["cpu_seconds"]
    over, faster = (f"{row[name]:.2f}" if timed else "" for name in ("over_frozen", "faster_than_peft"))
    counts = f"{row['flops'] / 1e9:,.0f} | {row['saved'] / 1e6:,.0f}"
    return (
        f"| {row['images']}:{row['classes']} | {row['variant']} | {counts} "
        f"| {seconds:,.1f} | {over} | {faster} | {row['above_bytes'] / 1e6:,.0f} |"
    )


def _gpu_row(row: dict[str, Any]) -> str:
    where = f"| {row['backbone']} | {row['images']}:{row['classes']} | {row['type']} | {row['variant']} "
    if row.get("out_of_memory"):
        return where + "| out of memory | | |"
    seconds = statistics.median(row["seconds"])
    return (
        where + f"| {1000 * seconds:,.1f} | {row['images'] / seconds:,.0f} | {row['peak_bytes'] / 1e6:,.0f} |"
    )


def _scaling(result: dict[str, Any]) -> str:
    line = result["line"]
    return (
        "![Counted and measured cost](img/engine_scaling.svg)\n\n"
        f"Measured: {len(result['measured'])} steps. CPU seconds = {line['overhead_seconds']:.2f} + FLOPs / "
        f"({line['flops_per_second'] / 1e9:.0f} GFLOP a second); points are off by {line['mean_deviation']:.0%} in the "
        f"mean, {line['largest_deviation']:.0%} at most.\n\n"
        f"`python benchmarks/scaling.py --rounds {result['rounds']}`. {_made_on(result)}"
    )


def _largest(result: dict[str, Any]) -> str:
    return (
        f"{result['classes']:,} classes, {result['backbone']}, {result['images']} images, both towers trained, one "
        f"step in float32: planned for {result['memory'] / 1e9:g} GB ({Plan(**result['plan'])}), "
        f"peak of resident memory {result['peak_bytes'] / 1e9:.2f} GB. Of it the step took "
        f"{result['above_bytes'] / 1e9:.2f} GB; {(result['predicted_bytes'] + CPU_FIRST) / 1e9:.2f} GB were predicted. "
        f"{result['flops'] / 1e12:.1f} TFLOP, {result['cpu_seconds']:.0f} s of CPU time on one thread.\n\n"
        f"`python benchmarks/scaling.py`. {_made_on(result)}"
    )


def _demo(result: dict[str, Any]) -> str:
    plain, lean = (statistics.median(result["seconds_a_step"][engine]) for engine in ("plain", "lean"))
    return (
        f"CPU time of a training step of the demonstration: {plain:.2f} s on transformers' forward, {lean:.2f} s on "
        f"the lean engine, {result['faster']:.2f} times faster.\n\n"
        f"`python benchmarks/demo_speed.py`. {_made_on(result)}"
    )


def _plot_levels(rows: list[dict[str, Any]]) -> None:
    """FLOPs and saved bytes of every variant, over those of PEFT's LoRA in the same shape."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True, layout="constrained")
    shapes = sorted({(row["images"], row["classes"]) for row in rows}, key=lambda shape: shape[1])
    names = [name for name in dict.fromkeys(row["variant"] for row in rows) if name != _FROZEN]
    quantities = (("flops", "FLOPs"), ("saved", "bytes kept for backward"))
    figure.suptitle("relative to transformers with PEFT's LoRA, padded to the longest prompt", fontsize=9)
    for axis, (quantity, title) in zip(axes, quantities, strict=True):
        for place, shape in enumerate(shapes):
            found = {r["variant"]: r[quantity] for r in rows if (r["images"], r["classes"]) == shape}
            heights = [found[name] / found[_PEFT] for name in names]
            where = [row + 0.26 * (place - (len(shapes) - 1) / 2) for row in range(len(names))]
            axis.barh(
                where, heights, 0.24, color=list(_COLOURS.values())[place], label=f"{shape[0]}:{shape[1]}"
            )
        axis.axvline(1, color="0.4", linewidth=0.8)
        axis.set_xlabel(f"{title}, relative")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].legend(title="images : classes", frameon=False, loc="upper right")
    _save(figure, "engine_levels.svg")


def _plot_scaling(result: dict[str, Any]) -> None:
    """Counted FLOPs against classes, images and prompt length; measured seconds against counted FLOPs."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.2), layout="constrained")
    for axis, (name, fixed) in zip(
        axes.flat, {"classes": "32 images", "images": "1000 classes", "prompt tokens": "32 : 1000"}.items(),
        strict=False,
    ):  # fmt: skip
        for backbone, colour in _COLOURS.items():
            rows = [r for r in result["counted"] if r["axis"] == name and r["backbone"] == backbone]
            values = [row["value"] for row in rows]
            axis.plot(values, [row["flops"] / 1e12 for row in rows], ".-", color=colour, label=backbone)
        axis.set(xlabel=f"{name} ({fixed})", ylabel="TFLOP a step, counted", xscale="log", yscale="log")
        _plain_ticks(axis)
    axes[0, 1].legend(frameon=False)
    axis, line = axes[1, 1], result["line"]
    for name, marker in {"classes": "o", "images": "s", "prompt tokens": "^", "backbone": "x"}.items():
        rows = [row for row in result["measured"] if row["axis"] == name]
        axis.plot(
            [r["flops"] / 1e9 for r in rows], [r["seconds"] for r in rows], marker, label=f"{name} vary"
        )
    counted = sorted(row["flops"] for row in result["measured"])
    fitted = [line["overhead_seconds"] + flops / line["flops_per_second"] for flops in counted]
    axis.plot(
        [flops / 1e9 for flops in counted],
        fitted,
        color="0.5",
        linewidth=0.8,
        label="overhead + FLOPs / speed",
    )
    axis.set(xlabel="GFLOP a step, counted", ylabel="CPU s a step, measured", xscale="log", yscale="log")
    _plain_ticks(axis)
    axis.legend(frameon=False)
    _save(figure, "engine_scaling.svg")


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with numbers as they are read, at 1, 2 and 5 times powers of ten where it is short."""
    for one in (axis.xaxis, axis.yaxis):
        low, high = one.get_view_interval()
        one.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        one.set_minor_formatter(NullFormatter())


def _save(figure: Any, name: str) -> None:
    figure.savefig(_IMAGES / name, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    write_page()
