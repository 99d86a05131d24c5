"""Accuracy of adapters on the bundled ``digits``, by the number of shots.

    python benchmarks/adapter_accuracy.py [--seeds 5]

Settings are the same for all (``few_shot.py``), the learning rate is that of the demonstration. Only VeRA, which trains
other numbers, gets the rate of ``GRID`` that does best on the validation scans at 4 shots, with the seeds of
``CHOICE_SEEDS``. Then 1, 4 and 16 shots are trained with seeds 1, 2, ... and measured once, on the test scans.
Finished runs are kept, one line each: an interrupted call goes on. The folded twin is left out, as it computes what the
blocks do, up to rounding (``generalization_gap.py`` checks that).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
from scipy import stats

from blocklora.adapter import BlockLoraConfig
from few_shot import RESULTS, TARGETS, Run, complete, made_with
from measuring import write

LR, SHOTS, CHOICE_SHOTS, CHOICE_SEEDS = 4e-3, (1, 4, 16), 4, (11, 12)
VERA = "VeRA (r=256)"
GRID = (1e-3, 4e-3, 1.6e-2, 6.4e-2, 2.56e-1)
COMMON: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 1,
    "lora_dropout": 0.1,
    "use_rslora": True,
    "target_modules": TARGETS,
}


def lora(**options: Any) -> Callable[[], peft.PeftConfig]:
    """Make configurations of PEFT's LoRA."""
    return lambda: peft.LoraConfig(**(COMMON | options))


def block(**options: Any) -> Callable[[], peft.PeftConfig]:
    """Make configurations of Block-LoRA."""
    return lambda: BlockLoraConfig(**(COMMON | {"n_blocks": 4} | options))


METHODS = {
    "LoRA (r=4)": lora(),
    "DoRA (r=4)": lora(use_dora=True),
    VERA: lambda: peft.VeraConfig(r=256, vera_dropout=0.1, target_modules=TARGETS),
    "Block-LoRA (r=4, n=4), blocks": block(),
    "Block-LoRA (r=4, n=4), arm_dropout": block(arm_dropout=True),
}


def choose_rate(name: str, path: Path) -> float:
    """A method's learning rate: the best mean accuracy on validation scans, then the lowest mean loss."""
    runs = [Run(name, METHODS[name], CHOICE_SHOTS, seed, lr, "val") for lr in GRID for seed in CHOICE_SEEDS]
    rows = complete(runs, path)

    def mean(what: str, lr: float) -> float:
        return float(np.mean([row[f"val_{what}"] for row in rows if row["lr"] == lr]))

    return max(GRID, key=lambda lr: (mean("accuracy", lr), -mean("loss", lr)))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95% interval by Student's t over the seeds."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def summary(rows: list[dict[str, Any]], rates: dict[str, float]) -> list[dict[str, Any]]:
    """One row for each method: its learning rate, and mean and half interval for each number of shots."""
    table = []
    for name in METHODS:
        row: dict[str, Any] = {"method": name, "lr": rates[name]}
        for shots in SHOTS:
            values = [r["test_accuracy"] for r in rows if (r["name"], r["shots"]) == (name, shots)]
            row[str(shots)] = dict(zip(("mean", "half_interval"), interval(values), strict=True))
        table.append(row)
    return table


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a table, accuracies in percent."""
    head = ["method", "lr", *(f"{shots} shot{'s' * (shots > 1)}" for shots in SHOTS)]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in table:
        cells = [f"{100 * row[str(s)]['mean']:.1f} ± {100 * row[str(s)]['half_interval']:.1f}" for s in SHOTS]
        lines.append(f"| {row['method']} | {row['lr']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Choose VeRA's rate, train what is missing, print the table, and write its numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="seeds 1 to this, at least 2 (default: %(default)s)"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=RESULTS / "adapter_accuracy.jsonl",
        help="finished runs (default: %(default)s)",
    )
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: an interval needs at least 2 seeds")
    rates = dict.fromkeys(METHODS, LR) | {VERA: choose_rate(VERA, options.runs)}
    runs = [
        Run(name, METHODS[name], shots, seed, rates[name])
        for seed in range(1, options.seeds + 1)
        for shots in SHOTS
        for name in METHODS
    ]
    finished = complete(runs, options.runs)
    table = summary(finished, rates)
    write(
        options.runs.with_suffix(".json"),
        {"made_with": made_with(finished), "seeds": options.seeds, "rows": table},
    )
    print(markdown(table))


if __name__ == "__main__":
    main()
