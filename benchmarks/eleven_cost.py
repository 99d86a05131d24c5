"""What examples/grids/eleven.toml costs, by the planner: memory and computing of its adapters' training.

    python benchmarks/eleven_cost.py

For every backbone of the grid: the peak memory of the step on the largest data set under the plan that fits ``MEMORY``,
and the floating-point operations of all its training runs of one method (data sets x shots x seeds). Hours are those
operations at ``RATE``, an assumed speed and no measurement. Prints a table, which docs/bench.md shows; and another for
docs/scaling.md, of all that the grid does with these methods and with those on frozen features, on one GPU, on eight,
and on one CPU thread at the speed that scaling.py has measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from blocklora.bench.grid import GridRun, load_grid
from blocklora.data import BENCHMARKS
from blocklora.run.plan import KNOWN, plan_step
from blocklora.training.memory.planner import frozen_image_flops
from vit import workload

GRID = Path(__file__).parents[1] / "examples" / "grids" / "eleven.toml"
METHOD, MEMORY, RATE = "block-lora", "24GB", 20e12  # operations a second
PLANNED = ("block-lora", "block-lora-folded", "block-lora-arms", "clip-lora")
FROZEN = (
    "zero-shot",
    "linear-probe",
    "zero-shot-probe",
    "tip-adapter",
    "tip-adapter-f",
    "clip-adapter",
    "taskres",
    "lp++",
)
CPU_SPEED = Path(__file__).parent / "results" / "scaling.json"
TEST = {"caltech101": 2465, "oxford_pets": 3669, "stanford_cars": 8041, "oxford_flowers": 2463, "food101": 30300,
        "fgvc_aircraft": 3333, "sun397": 19850, "dtd": 1692, "eurosat": 8100, "ucf101": 3783,
        "imagenet": 50000}  # fmt: skip  # test images of CoOp's splits
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


def literature() -> str:
    """What the grid's runs cost on one GPU, eight, and one CPU thread, in Markdown."""
    runs = load_grid(GRID).runs
    speed = json.loads(CPU_SPEED.read_text(encoding="utf-8"))["line"]["flops_per_second"]
    head = (
        f"| backbone | what (computed) | runs | operations | one 24 GB GPU at {RATE / 1e12:.0f} TFLOP/s | eight | "
        f"one CPU thread at {speed / 1e9:.0f} GFLOP/s |\n|---|---|---:|---:|---:|---:|---:|"
    )
    lines = []
    for model in dict.fromkeys(run.model for run in runs):
        own = [run for run in runs if run.model == model]
        for what, some in _groups(own).items():
            total = _operations(some, frozen=what != "adapters")
            times = [_time(total / rate) for rate in (RATE, 8 * RATE, speed)]
            lines.append(
                f"| {_known(model)} | {_WHAT[what]} | {len(some)} | {total / 1e18:.3g} EFLOP | {' | '.join(times)} |"
            )
    return "\n".join([head, *lines])


_WHAT = {
    "adapters": "Block-LoRA (three variants) and CLIP-LoRA: training, test images",
    "frozen": f"{len(FROZEN)} methods on frozen features: every image once",
}


def _groups(runs: list[GridRun]) -> dict[str, list[GridRun]]:
    """The runs that can be priced; the other methods train through the towers, and the planner does not know them."""
    return {
        "adapters": [run for run in runs if run.method in PLANNED],
        "frozen": [run for run in runs if run.method in FROZEN],
    }


def _known(model: str) -> str:
    return next(name for name, (hub, *_) in KNOWN.items() if hub == model)


def _operations(runs: list[GridRun], *, frozen: bool) -> float:
    """Steps and the test images of every run; or where towers are frozen, of every image one forward for all runs."""
    model = _known(runs[0].model)
    one = frozen_image_flops(workload(model, 1, [8]).model)
    if frozen:
        drawn = sum(
            3 * 16 * BENCHMARKS[data].n_classes for data in TEST
        )  # of 3 seeds; fewer shots are among these
        return one * (sum(TEST.values()) + drawn)
    return sum(
        _PER_SHOT * run.shots * _step(model, BENCHMARKS[run.data].n_classes, run.method)
        + one * TEST[run.data]
        for run in runs
    )


@cache
def _step(model: str, classes: int, name: str) -> float:
    more = {"block-lora-folded": {"parametrization": "folded"}, "block-lora-arms": {"arm_dropout": True}}.get(
        name, {}
    )
    method = "clip-lora" if name == "clip-lora" else "block-lora"
    found = plan_step(model, classes, method=method, memory=MEMORY, device="cuda", precision="bf16", **more)
    return found.chosen.need.flops


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.2g} h" if hours < 100 else f"{hours / 24:,.0f} days"


if __name__ == "__main__":
    print(table(), literature(), sep="\n\n")
