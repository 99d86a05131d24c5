"""What examples/grids/eleven.toml costs, by the planner: memory and computing of its adapters' training.

    python benchmarks/eleven_cost.py

For every backbone of the grid: the peak memory of the step on the largest data set under the plan that fits ``MEMORY``,
and the floating-point operations of all its training runs of one method (data sets x shots x seeds). Hours are those
operations at ``RATE``, an assumed speed and no measurement. Prints a table, which docs/bench.md shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blocklora.bench.grid import load_grid
from blocklora.data import BENCHMARKS
from blocklora.run.plan import KNOWN, plan_step

GRID = Path(__file__).parents[1] / "examples" / "grids" / "eleven.toml"
METHOD, MEMORY, RATE = "block-lora", "24GB", 20e12  # operations a second
_PER_SHOT = 500  # steps, as the recipe has it; the grid leaves it as it is


def rows() -> Iterator[tuple[str, float, float, float, float]]:
    """Backbone, peak bytes, operations, hours at ``RATE``, and the share of them that ImageNet takes."""
    runs = [run for run in load_grid(GRID).runs if run.method == METHOD]
    names = {model: name for name, (model, *_) in KNOWN.items()}
    for model in dict.fromkeys(run.model for run in runs):
        plans = {
            data: plan_step(
                names[model], BENCHMARKS[data].n_classes, memory=MEMORY, device="cuda", precision="bf16"
            )
            for data in {run.data for run in runs}
        }
        operations = dict.fromkeys(plans, 0.0)
        for run in runs:
            if run.model == model:
                operations[run.data] += _PER_SHOT * run.shots * plans[run.data].chosen.need.flops
        total = sum(operations.values())
        peak = max(plan.chosen.peak_bytes for plan in plans.values())
        yield names[model], peak, total, total / RATE / 3600, operations["imagenet"] / total


def table() -> str:
    """The rows in Markdown."""
    head = "| backbone | peak memory | operations | hours at 20 TFLOP/s | of them ImageNet |\n|---|---:|---:|---:|---:|"
    lines = [
        f"| {name} | {peak / 1e9:.1f} GB | {total / 1e18:.2f} EFLOP | {hours:.0f} | {share:.0%} |"
        for name, peak, total, hours, share in rows()
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    print(table())
