"""A hundred thousand classes on one process, in a bounded amount of memory: peak, time, and the share of each part.

    python benchmarks/many_classes.py [--classes N] [--steps N] [--test N] [--memory 6GB] [--layers all]

Random names, one shot, the bundled model, ``blocklora fit``'s own code in a fresh process. Images are random blobs of
colour, so the accuracy says nothing; what counts is that the run ends, how, and within what memory. Beside it stand the
bytes that the same step would keep without the two passes and without logits in parts, counted from shapes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from blocklora.classifier.classifier import Classifier
from blocklora.clip.towers import LeanTowers
from blocklora.core.device import peak_memory_bytes, resolve_device
from blocklora.run import fit, measure
from blocklora.training import loop
from blocklora.training.memory import limits
from blocklora.training.memory.planner import Workload, price
from blocklora.training.softmax import cross_entropy_sum
from blocklora.training.step import Plan
from measuring import circumstances, in_fresh_process, write

_SIDE, _BATCH = 12, 32


def names(n: int, seed: int = 0) -> list[str]:
    """Return so many distinct random words of two to four syllables."""
    draw = random.Random(seed)
    syllables = [a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou")]
    found: dict[str, None] = {}
    while len(found) < n:
        found["".join(draw.choices(syllables, k=draw.randint(2, 4)))] = None
    return list(found)


def write_table(folder: Path, classes: int, test: int) -> Path:
    """Write a table with one training image a class, and test images of the first classes."""
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "split"])
        labels = names(classes)
        parts = [("train", labels), ("test", [labels[i % classes] for i in range(test)])]
        for part, several in parts:
            for place, label in enumerate(several):
                image = f"images/{part}{place}.png"
                pixels = draw.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / image, compress_level=1)
                rows.writerow([image, label, part])
    return folder / "table.csv"


class Clock:
    """Adds up the wall seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.work: Workload | None = None

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts for a part."""

        def call(*given: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **more)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return call

    @contextmanager
    def on(self, part: str, owner: Any, name: str) -> Iterator[None]:
        """Let calls of a function count for a part."""
        with patch.object(owner, name, self.timed(part, getattr(owner, name))):
            yield


def run(classes: int, steps: int, test: int, memory: str, layers: str) -> dict[str, Any]:
    """Fit and evaluate once; for a fresh process."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder) / "data", classes, test)
        began = time.perf_counter()
        spans = [
            ("read the data", fit, "choose"),
            ("prepare: read images, make prompts, load the model", fit, "prepare"),
            ("fit", fit, "fit_classifier"),
            ("training", loop, "minimise"),
            ("steps", loop, "gradient"),
            ("texts in steps, all that is forward", LeanTowers, "texts"),
            ("images in steps and evaluation, forward", LeanTowers, "images"),
            ("evaluation", fit, "measure"),
            ("answers", Classifier, "answers"),
            ("metrics", measure, "judge"),
            ("confidence", measure, "measure_confidence"),
            ("report", fit, "_write_report"),
        ]
        found: dict[str, Any] = {}

        def watched(*given: Any, **more: Any) -> Workload:
            found["work"] = limits_workload(*given, **more)
            return found["work"]

        limits_workload = limits.workload
        with patch.object(limits, "workload", watched):
            managers = [clock.on(part, owner, name) for part, owner, name in spans]
            for manager in managers:
                manager.__enter__()
            out, metrics = fit.fit_run(
                str(table), Path(folder) / "run", model="tiny", shots=1, seed=1, iterations=steps,
                memory_limit=memory, layers=layers,
            )  # fmt: skip
            for manager in reversed(managers):
                manager.__exit__(None, None, None)
        plan = Plan(**{k: v for k, v in metrics.engine["plan"].items() if k != "words"})
        sizes = {file.name: file.stat().st_size for file in sorted(out.iterdir()) if file.is_file()}
        return {
            "classes": classes, "steps": steps, "test_images": test, "memory_limit": memory,
            "layers": layers,
            "seconds": time.perf_counter() - began, "parts": dict(clock.seconds),
            "peak_bytes": peak_memory_bytes(resolve_device("cpu")),
            "predicted_peak_bytes": metrics.engine["predicted_peak_bytes"],
            "plan": str(plan), "loss_seconds": loss_seconds(classes, metrics.n_train),
            "counted": counted(found["work"], plan), "files": sizes,
            "accuracy": metrics.evaluation.accuracy,
        }  # fmt: skip


def loss_seconds(classes: int, images: int) -> float:
    """Return the seconds of one step's loss, forward and backward, on features of the bundled model's width."""
    draw = torch.Generator().manual_seed(0)
    features = [
        F.normalize(torch.randn(rows, 256, generator=draw), dim=1).requires_grad_()
        for rows in (min(images, _BATCH), classes)
    ]
    labels = torch.randint(0, classes, (len(features[0]),), generator=draw)
    began = time.perf_counter()
    cross_entropy_sum(*features, torch.tensor(100.0), labels).backward()
    return time.perf_counter() - began


def counted(work: Workload, plan: Plan) -> dict[str, float]:
    """Return bytes that autograd keeps in a step, from shapes: as planned, and all at once."""
    naive = price(work, Plan())
    padded = price(Workload(**{**work.__dict__, "lengths": (77,) * len(work.lengths), "opening": 0}), Plan())
    logits = 4 * 3 * work.images * len(work.lengths)
    return {
        "saved_as_planned": price(work, plan).saved,
        "saved_all_at_once": naive.saved,
        "saved_all_at_once_padded_to_77": padded.saved,
        "logits_all_at_once": logits,
        "confusion_matrix": 8 * len(work.lengths) ** 2,
    }


def main() -> None:
    """Measure in a fresh process, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--memory", default="6GB")
    parser.add_argument("--layers", default="all", help="which blocks are adapted, as in blocklora fit")
    default = Path(__file__).parent / "results" / "many_classes.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(json.dumps(run(given.classes, given.steps, given.test, given.memory, given.layers)))
        return
    options = [
        f"--{name}={getattr(given, name)}" for name in ("classes", "steps", "test", "memory", "layers")
    ]
    result = in_fresh_process("many_classes.py", "--here", *options)
    write(given.out, circumstances() | result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
