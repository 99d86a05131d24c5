"""Accuracy and time of the methods on frozen features that take seconds, on the bundled tasks with the bundled model.

    python benchmarks/cheap_methods.py [--out RESULT.json] [--table]

Every method of ``METHODS`` is fitted with its defaults to ``SHOTS`` images a class, seeds ``SEEDS``, and measured on
the test images, which choose nothing. There are no validation images: what a method chooses, it chooses by
cross-validation on the training images, or it takes the value that it has for this case. Seconds are this process's
CPU time on one thread, features of the training images included. Every figure is written as soon as it is there, and
an interrupted call goes on. ``--table`` prints the table of docs/methods.md from the figures that are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blocklora.classifier import FeatureStore, encode
from blocklora.data import few_shot, load_dataset
from blocklora.methods import fit_classifier, fit_config, prepare
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "cheap_methods.json"
DATA, SHOTS, SEEDS = ("digits", "twemoji", "clipart"), (1, 4, 16), (1, 2, 3)
METHODS = ("zero-shot", "linear-probe", "tip-adapter", "lp++", "prototypes", "gda", "proker", "prolip")


def measure(method: str, data: str, shots: int, seed: int, store: FeatureStore) -> dict[str, Any]:
    """Fit a method, and measure it on all test images; the store is for those alone."""
    dataset = load_dataset(data)
    config = fit_config(
        model="tiny",
        method=method,
        shots=shots,
        seed=seed,
        prompt=dataset.prompt,
        device="cpu",
        precision="fp32",
    )
    prepared = prepare(config, dataset, replace(few_shot(dataset, shots, seed), val=()))
    began = time.process_time()
    fit = fit_classifier(prepared, config)
    seconds = time.process_time() - began
    images = [(example.image, example.source) for example in dataset.test]
    features = encode(fit.classifier, images, fit.compute, store=store).features
    labels = np.array([example.label for example in dataset.test])
    right = fit.classifier.logits(features).argmax(dim=1).numpy() == labels
    run = {"method": method, "data": data, "shots": shots, "seed": seed}
    return run | {"accuracy": float(right.mean()), "seconds": round(seconds, 3)}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return the mean accuracy over the tasks by method and shots, and the longest mean time of a task, in Markdown."""
    head = "| method | " + " | ".join(f"{n} shot{'s' * (n > 1)}" for n in SHOTS) + " | seconds, 16 shots |"
    lines = [head, "|---|" + "---:|" * (len(SHOTS) + 1)]
    for method in METHODS:
        own = [run for run in runs if run["method"] == method]
        cells = []
        for shots in SHOTS:
            by_seed = [
                statistics.fmean(100 * r["accuracy"] for r in own if (r["shots"], r["seed"]) == (shots, seed))
                for seed in SEEDS
            ]
            cells.append(f"{statistics.fmean(by_seed):.1f} ± {statistics.stdev(by_seed):.1f}")
        seconds = statistics.fmean(run["seconds"] for run in own if run["shots"] == SHOTS[-1])
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {seconds:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the figures (JSON)")
    parser.add_argument("--table", action="store_true", help="print the table, and measure nothing")
    arguments = parser.parse_args()
    out: Path = arguments.out
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    runs: list[dict[str, Any]] = before.get("runs", [])
    if arguments.table:
        print(table(runs))
        return
    torch.set_num_threads(1)
    made_with = before.get("made_with") or circumstances()
    done = {(run["method"], run["data"], run["shots"], run["seed"]) for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        for key in ((m, d, n, s) for d in DATA for n in SHOTS for s in SEEDS for m in METHODS):
            if key in done:
                continue
            runs.append(measure(*key, FeatureStore(Path(folder))))
            print(*key, f"{runs[-1]['accuracy']:.3f}, {runs[-1]['seconds']:.1f} s", flush=True)
            write(out, {"made_with": made_with, "model": "tiny", "validation_images": 0, "runs": runs})
    print(table(runs))


if __name__ == "__main__":
    main()
