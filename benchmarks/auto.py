"""auto beside each method with its defaults, and the best method on the test images, which nobody could know.

    python benchmarks/auto.py [FOLDER ...] [--out RESULT.json] [--seconds 60] [--jobs 2] [--table]

Data are the bundled tasks, and folders of photos that are named; ``SHOTS`` images a class, seeds ``SEEDS``, drawn as
``blocklora fit`` draws them, validation images included. Each method is fitted by its own defaults, but for
``block-lora``, whose published recipe would take days here: it has the demonstration's settings. ``auto`` has so many
seconds for a fit and the test, on one thread. The oracle is the method of each run that is best on its test images; it
is shown as a limit, and never used. Test images choose nothing. Every figure is written as soon as it is there, and an
interrupted call goes on. ``--table`` prints the tables of docs/auto.md from the figures that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blocklora.classifier import FeatureStore, encode
from blocklora.core.deadline import Deadline
from blocklora.core.resources import Resources, available_resources
from blocklora.data import DataChoice, choose, seal
from blocklora.methods import fit_classifier, fit_config, prepare
from blocklora.metrics import expected_calibration_error, negative_log_likelihood
from blocklora.run.demo import SETTINGS
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "auto.json"
DATA, SHOTS, SEEDS = ("digits", "twemoji", "clipart"), (4, 16), (1, 2, 3)
METHODS = (
    "zero-shot", "prototypes", "gda", "proker", "linear-probe", "lp++", "tip-adapter", "tip-adapter-f", "prolip",
    "taskres", "zero-shot-probe", "block-lora",
)  # fmt: skip
AUTO = "auto"

Key = tuple[str, str, int, int]  # data, method, shots, seed


def measure(key: Key, seconds: float, stores: str) -> dict[str, Any]:
    """Fit a method, and measure it on all test images; the store is shared, and what it spares is counted."""
    torch.set_num_threads(1)
    data, method, shots, seed = key
    began = time.monotonic()
    whole, drawn = choose(DataChoice(data), shots, seed)
    config = fit_config(
        model="tiny",
        method=method,
        shots=shots,
        seed=seed,
        prompt=whole.prompt,
        device="cpu",
        precision="fp32",
        **(SETTINGS if method == "block-lora" else {}),
    )
    dataset, split, sealed = seal(whole, drawn)
    store = FeatureStore(Path(stores))
    prepared = prepare(config, dataset, split)
    deadline = Deadline(seconds, began) if method == AUTO else None
    resources = Resources(1, available_resources().memory_bytes)
    fit = fit_classifier(prepared, config, store=store, resources=resources, deadline=deadline)
    test = sealed.open_after_training()
    images = [(example.image, example.source) for example in test]
    found = encode(fit.classifier, images, fit.compute, store=store)
    labels = np.array([test[index].label for index in found.kept])
    probabilities = fit.classifier.probabilities(found.features)
    return {
        "data": Path(data).name,
        "method": method,
        "shots": shots,
        "seed": seed,
        "accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
        "log_loss": negative_log_likelihood(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "n_test": len(labels),
        "seconds": round(fit.seconds, 1),
        "all_seconds": round(time.monotonic() - began, 1),
        "kept": [candidate.name for candidate in fit.result.candidates if candidate.kept],
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return accuracies by method, data and shots: means over seeds and their standard deviation, in Markdown."""
    columns = sorted({(run["shots"], run["data"]) for run in runs})
    ways = [AUTO, *METHODS]
    lines = [
        "| method | "
        + " | ".join(f"{data}, {shots}" for shots, data in columns)
        + " | mean | log loss | seconds |",
        "|---|" + "---:|" * (len(columns) + 3),
    ]
    for way in ways:
        own = [run for run in runs if run["method"] == way]
        if own:
            lines.append(f"| {way} | " + " | ".join(_cells(own, columns)) + f" | {_ends(own)} |")
    lines.append(
        "| *oracle* | " + " | ".join(_cells(_oracle(runs), columns)) + f" | {_ends(_oracle(runs))} |"
    )
    return "\n".join(lines)


def _oracle(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return of each data set, shots and seed the run that is best on the test images, auto not among them."""
    cells = {(run["data"], run["shots"], run["seed"]) for run in runs}
    singles = [run for run in runs if run["method"] != AUTO]
    found = []
    for cell in sorted(cells):
        own = [run for run in singles if (run["data"], run["shots"], run["seed"]) == cell]
        if own:
            found.append(max(own, key=lambda run: run["accuracy"]))
    return found


def _cells(own: Sequence[dict[str, Any]], columns: Sequence[tuple[int, str]]) -> list[str]:
    found = []
    for shots, data in columns:
        values = [100 * run["accuracy"] for run in own if (run["shots"], run["data"]) == (shots, data)]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        found.append(f"{statistics.fmean(values):.1f}{spread}" if values else "")
    return found


def _ends(own: Sequence[dict[str, Any]]) -> str:
    means = [statistics.fmean(run[name] for run in own) for name in ("accuracy", "log_loss", "seconds")]
    return f"{100 * means[0]:.1f} | {means[1]:.3f} | {means[2]:.0f}"


def kept(runs: Sequence[dict[str, Any]]) -> str:
    """Return how often auto kept what."""
    counts: dict[str, int] = {}
    for run in runs:
        if run["method"] == AUTO:
            name = " + ".join(sorted(run["kept"]))
            counts[name] = counts.get(name, 0) + 1
    return "\n".join(f"- {name}: {n}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))


def main() -> None:
    """Do what is missing, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", help="folders of photos, measured as well")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the figures (JSON)")
    parser.add_argument("--seconds", type=float, default=60, help="that auto has for a fit and the test")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument(
        "--methods", default=",".join((AUTO, *METHODS)), help="which, with commas between them"
    )
    parser.add_argument("--table", action="store_true", help="print the tables, and measure nothing")
    arguments = parser.parse_args()
    out: Path = arguments.out
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    runs: list[dict[str, Any]] = before.get("runs", [])
    if not arguments.table:
        made_with = before.get("made_with") or circumstances()
        done = {(run["data"], run["method"], run["shots"], run["seed"]) for run in runs}
        methods = arguments.methods.split(",")
        keys = [
            (d, m, n, s) for s in SEEDS for m in methods for n in SHOTS for d in (*DATA, *arguments.folders)
        ]
        missing = [key for key in keys if (Path(key[0]).name, *key[1:]) not in done]
        os.environ["OMP_NUM_THREADS"] = "1"
        with (
            tempfile.TemporaryDirectory() as stores,
            ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool,
        ):
            waiting = [pool.submit(measure, key, arguments.seconds, stores) for key in missing]
            for number, future in enumerate(as_completed(waiting), 1):
                runs.append(future.result())
                print(f"{number} of {len(missing)}:", runs[-1], flush=True)
                facts = {"made_with": made_with, "model": "tiny", "auto_seconds": arguments.seconds}
                write(out, facts | {"runs": runs})
    print(table(runs))
    print(kept(runs))


if __name__ == "__main__":
    main()
