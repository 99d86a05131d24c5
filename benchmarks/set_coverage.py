"""How often sets of classes made for 90% hold the true class, and how many classes they name.

    python benchmarks/set_coverage.py [--out RESULT.json] [--data NAME ...] [--mixed] [--table]

Every method of ``METHODS`` is fitted with its defaults and the bundled model to ``SHOTS`` images a class, seeds
``SEEDS``, once with validation images that calibrate the sets, and once without, so that the training images do it.
Sets are measured on the test images, which choose nothing. Where validation images calibrate, mapie makes sets of the
same probabilities. ``--data`` may name folders. Every figure is written as soon as it is there, and an interrupted call
goes on. With ``--mixed`` training and test images are drawn anew from all images together, so that they are alike: what
is then short of 90% would be a fault; the rest is the work of the data's own split. ``--table`` prints the tables of
docs/confidence.md from the figures that are there.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from blocklora.classifier import Classifier, FeatureStore, class_sets, encode
from blocklora.data import DataChoice, Dataset, choose, few_shot, load_dataset
from blocklora.methods import fit_classifier, fit_config, prepare
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "coverage.json"
DATA, SHOTS, SEEDS = ("digits", "twemoji", "clipart"), 16, tuple(range(1, 21))
METHODS = ("gda", "proker", "linear-probe")
COVERAGE = 0.9
HOW = {
    "validation": "validation images",
    "folds": "training images, CV+",
    "leave-one-out": "training images, one out",
}


class _Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier whose inputs are its logits."""

    def fit(self, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> _Given:
        """Note how many classes there are."""
        self.classes_ = np.arange(logits.shape[1])
        return self

    def predict_proba(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the softmax."""
        return np.asarray(softmax(logits, axis=1))

    def predict(self, logits: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the most probable class."""
        return np.asarray(logits.argmax(axis=1))


def mixed(dataset: Dataset, seed: int) -> Dataset:
    """Deal out all images anew: each class has as many test images as before, drawn at random."""
    rng, parts = random.Random(seed), (dataset.train, dataset.val, dataset.test)
    tested = Counter(example.label for example in dataset.test)
    train, test = [], []
    for label in range(len(dataset.class_names)):
        own = [example for part in parts for example in part if example.label == label]
        rng.shuffle(own)
        test += own[: tested[label]]
        train += own[tested[label] :]
    return replace(dataset, train=tuple(train), val=(), test=tuple(test))


def measure(
    data: str,
    method: str,
    seed: int,
    validation: bool,
    store: FeatureStore,
    shots: int = SHOTS,
    mix: bool = False,
) -> dict[str, Any] | None:
    """Fit, make sets for the test images, and count; None where no image calibrates."""
    dataset, split = choose(DataChoice(data), shots, seed)
    if mix:
        dataset = mixed(load_dataset(data, seed=seed), seed)
        split = few_shot(dataset, shots, seed)
    if not validation:
        split = replace(split, val=())
    config = fit_config(
        model="tiny",
        method=method,
        shots=shots,
        seed=seed,
        prompt=dataset.prompt,
        device="cpu",
        precision="fp32",
    )
    prepared = prepare(config, dataset, split)
    fit = fit_classifier(prepared, config, store=store)
    held_out = fit.classifier.evidence.held_out
    if held_out is None:
        return None
    images = [(example.image, example.source) for example in split.test]
    encoded = encode(fit.classifier, images, fit.compute, store=store)
    labels = np.array([split.test[index].label for index in encoded.kept])
    run = {
        "data": named(data, mix),
        "method": method,
        "seed": seed,
        "how": held_out.how,
        "n": len(held_out.labels),
        **counted(class_sets(fit.classifier, encoded.features, COVERAGE), labels),
    }
    if not validation:
        return run
    val = encode(fit.classifier, [(e.image, e.source) for e in prepared.task.val], fit.compute, store=store)
    theirs = mapies(fit.classifier, val.features, held_out.labels, encoded.features)
    return run | {f"mapie_{name}": value for name, value in counted(theirs, labels).items()}


def named(data: str, mix: bool) -> str:
    """Return what the table calls a data set."""
    return Path(data).name + (", mixed" if mix else "")


def mapies(classifier: Classifier, val: Any, val_labels: NDArray[np.int64], test: Any) -> NDArray[np.bool_]:
    """Return the sets (M, N) that mapie makes of the same logits."""
    logits = classifier.logits(val).numpy()
    known = SplitConformalClassifier(
        _Given().fit(logits, val_labels), confidence_level=COVERAGE, conformity_score="lac", prefit=True
    ).conformalize(logits, val_labels)
    return np.asarray(known.predict_set(classifier.logits(test).numpy())[1][:, :, 0], dtype=bool)


def counted(sets: NDArray[np.bool_], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the share of sets (M, N) that hold the true class (M,), and their mean size."""
    return {
        "covered": float(sets[np.arange(len(labels)), labels].mean()),
        "size": float(sets.sum(axis=1).mean()),
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a row for each data set, method and way to calibrate."""
    lines = [
        "| data | method | calibrated on | images | coverage | of single seeds | classes in a set | mapie: coverage | "
        "mapie: classes |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["data"], run["method"], run["how"]), []).append(run)
    for (data, method, how), rows in cells.items():
        covered = [row["covered"] for row in rows]
        theirs = [f"{100 * _mean(rows, 'mapie_covered'):.1f}%", f"{_mean(rows, 'mapie_size'):.2f}"]
        lines.append(
            f"| {data} | {method} | {HOW[how]} | {_mean(rows, 'n'):.0f} | {100 * statistics.fmean(covered):.1f}% | "
            f"{100 * min(covered):.0f} to {100 * max(covered):.0f}% | {_mean(rows, 'size'):.2f} | "
            + (" | ".join(theirs) if how == "validation" else "| ")
            + " |"
        )
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.fmean(row.get(name, 0.0) for row in rows)


def main() -> None:
    """Measure what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    record = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {"runs": []}
    if arguments.table:
        print(table(record["runs"]))
        return
    done = {(run["data"], run["method"], run["seed"], run["how"] == "validation") for run in record["runs"]}
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder))
        for method, data, seed, validation in product(METHODS, arguments.data, SEEDS, (True, False)):
            if (named(data, arguments.mixed), method, seed, validation) in done:
                continue
            if run := measure(data, method, seed, validation, store, mix=arguments.mixed):
                record["runs"].append(run)
                write(arguments.out, record | {"coverage": COVERAGE, **circumstances()})


if __name__ == "__main__":
    main()
