"""Learning rates for examples/grids/tiny.toml, where methods get few steps: chosen on validation images alone.

    python benchmarks/tiny_settings.py [--out RESULT.json]

Every method that trains through a tower is fitted with its settings of the grid and each of its ``RATES``, at ``SHOTS``
shots with the seed ``SEED``, which is none of the grid's, and measured on all validation images of each bundled task.
The rate with the best mean accuracy over the tasks is chosen, the lower one of equals; test images are not opened.
Block-LoRA's rate is chosen for its blocks, and its other forms take it over, so that they differ in one thing alone.
Every figure is written as soon as it is there, and an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from blocklora.bench.grid import GridRun, load_grid
from blocklora.classifier import encode
from blocklora.data import few_shot, load_dataset
from blocklora.methods import fit_classifier, fit_config, prepare
from measuring import circumstances, write

GRID = Path(__file__).parents[1] / "examples" / "grids" / "tiny.toml"
SHOTS, SEED = 4, 101
_ADAPTERS, _PROMPTS = (1e-3, 4e-3, 1.6e-2), (2e-3, 2e-2, 2e-1)
RATES = {
    "cocoop": _PROMPTS,
    "promptsrc": _PROMPTS,
    "layer-norm": (1e-3, 4e-3, 1.6e-2),
    "2sfs": (1e-3, 4e-3, 1.6e-2),
    "full": (3e-5, 1e-4, 3e-4),
    "clip-lora": _ADAPTERS,
    "block-lora": _ADAPTERS,
    "dora": _ADAPTERS,
}
AS_CHOSEN = {"block-lora-folded": "block-lora", "block-lora-arms": "block-lora"}


def validation_accuracy(run: GridRun, rate: float) -> float:
    """Fit a run of the grid with another seed, shots and rate, and measure it on all validation images."""
    dataset = load_dataset(run.data)
    settings = {name: value for name, value in run.arguments.items() if name != "data"}
    config = fit_config(**settings | {"lr": rate, "shots": SHOTS, "seed": SEED}, prompt=dataset.prompt)
    fit = fit_classifier(prepare(config, dataset, few_shot(dataset, SHOTS, SEED)), config)
    images = [(example.image, example.source) for example in dataset.val]
    probabilities = fit.classifier.probabilities(encode(fit.classifier, images, fit.compute).features)
    labels = np.array([example.label for example in dataset.val])
    return float((probabilities.argmax(axis=1) == labels).mean())


def chosen(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """The rate of every method: the best mean accuracy over the tasks, the lower one of equals."""

    def rank(rates: dict[str, dict[str, float]], rate: str) -> tuple[float, float]:
        return float(np.mean(list(rates[rate].values()))), -float(rate)

    best = {
        method: float(max(rates, key=lambda rate: rank(rates, rate))) for method, rates in figures.items()
    }
    return best | {method: best[other] for method, other in AS_CHOSEN.items() if other in best}


def main() -> None:
    """Do what is missing, and print what was chosen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent / "results" / "tiny_settings.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the figures (JSON)")
    out = parser.parse_args().out
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    figures: dict[str, Any] = before.get("validation_accuracy", {})
    made_with = before.get("made_with") or circumstances()
    runs = {(run.method, run.data): run for run in load_grid(GRID).runs}
    tasks = sorted({data for _, data in runs})
    for method, rates in RATES.items():
        for rate in rates:
            row = figures.setdefault(method, {}).setdefault(f"{rate:g}", {})
            for data in tasks:
                if data in row:
                    continue
                began = time.process_time()
                row[data] = validation_accuracy(runs[method, data], rate)
                print(
                    f"{method} {rate:g} {data}: {row[data]:.3f}, {time.process_time() - began:.1f} s",
                    flush=True,
                )
                result = {"made_with": made_with, "shots": SHOTS, "seed": SEED, "chosen": chosen(figures)}
                write(out, result | {"validation_accuracy": figures})
    for method, rate in chosen(figures).items():
        print(f"{method}: lr = {rate:g}")


if __name__ == "__main__":
    main()
