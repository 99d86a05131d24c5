"""A hundred thousand classes in a bounded amount of memory, on one process or several: peak, time, shares of the parts.

    python benchmarks/many_classes.py [--processes N] [--classes N] [--steps N] [--test N] [--memory 6GB] [--layers all]

Random names, one shot, the bundled model, ``blocklora fit``'s own code in fresh processes, behind torchrun where there
are several. Images are random blobs of colour, so the accuracy says nothing; what counts is that the run ends, how, and
within what memory. Seconds are those of the clock and of this process's CPU: on a machine shared with other work only
the latter say something. Beside it stand the bytes that the same step would keep without the two passes and without
logits in parts, counted from shapes. The file keeps the figures of other numbers of processes and other layers.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
from blocklora.core.ranks import Ranks, joined_ranks
from blocklora.run import fit, measure
from blocklora.training import loop, step
from blocklora.training.memory import limits
from blocklora.training.memory.limits import parse_bytes
from blocklora.training.memory.planner import Workload, price
from blocklora.training.softmax import cross_entropy_sum
from blocklora.training.step import ClassFeatures, Plan
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
    """Adds up the seconds of named parts, of the clock and of this process's CPU."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = defaultdict(lambda: {"wall": 0.0, "cpu": 0.0})

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts for a part."""

        def call(*given: Any, **more: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*given, **more)
            finally:
                self.parts[name]["wall"] += time.perf_counter() - wall
                self.parts[name]["cpu"] += time.process_time() - cpu

        return call

    @contextmanager
    def on(self, part: str, owner: Any, name: str) -> Iterator[None]:
        """Let calls of a function count for a part."""
        with patch.object(owner, name, self.timed(part, getattr(owner, name))):
            yield

    @contextmanager
    def on_texts(self) -> Iterator[None]:
        """Count a step's two ways through the text tower: forward, and back with the gradient."""
        at = self.timed("  texts, forward", ClassFeatures.at)

        def both(*given: Any) -> Any:
            features, send_back = at(*given)
            return features, self.timed("  texts, forward again and backward", send_back)

        with patch.object(ClassFeatures, "at", both):
            yield


PARTS: list[tuple[str, Any, str]] = [
    ("read the data", fit, "choose"),
    ("prepare: read images, make prompts, load the model", fit, "prepare"),
    ("fit", fit, "fit_classifier"),
    ("steps", loop, "gradient"),
    ("  loss, forward", step, "cross_entropy_sum"),
    ("images in steps and evaluation, forward", LeanTowers, "images"),
    ("gather and sum between processes, waiting included", Ranks, "gather"),
    ("gather and sum between processes, waiting included", Ranks, "sum"),
    ("evaluation", fit, "measure"),
    ("answers", Classifier, "answers"),
    ("metrics", measure, "judge"),
    ("confidence", measure, "measure_confidence"),
    ("report", fit, "_write_report"),
]


class Told:
    """Says on stderr how far it is."""

    def __init__(self, ranks: Ranks) -> None:
        self._first, self._began = ranks.first, time.perf_counter()

    def _say(self, text: str) -> None:
        peak = peak_memory_bytes(resolve_device("cpu")) / 1e9
        if self._first:
            print(f"{time.perf_counter() - self._began:.0f} s, {peak:.2f} GB: {text}", file=sys.stderr)

    def step(self, number: int, total: int, loss: float, lr: float) -> None:
        """Name a step."""
        self._say(f"step {number} of {total}")

    def part(self, name: str) -> None:
        """Name a part."""
        self._say(name)

    def encoded(self, done: int, total: int) -> None:
        """Name some images."""
        self._say(f"{done} of {total} images")


def run(
    classes: int, steps: int, test: int, memory: str, layers: str, folder: Path, ranks: Ranks
) -> dict[str, Any]:
    """Fit and evaluate once; for a fresh process."""
    clock, found = Clock(), {}
    table = folder / "data" / "table.csv"
    ranks.on_first(lambda: str(write_table(folder / "data", classes, test)))
    wall, cpu = time.perf_counter(), time.process_time()
    counted_work = limits.workload

    def watched(*given: Any, **more: Any) -> Workload:
        found["work"] = counted_work(*given, **more)
        return found["work"]

    with ExitStack() as stack:
        stack.enter_context(patch.object(limits, "workload", watched))
        stack.enter_context(clock.on_texts())
        for part in PARTS:
            stack.enter_context(clock.on(*part))
        out, metrics = fit.fit_run(
            str(table), folder / "run", model="tiny", shots=1, seed=1, iterations=steps,
            memory_limit=memory, layers=layers, ranks=ranks, progress=Told(ranks),
        )  # fmt: skip
    plan = Plan(**{k: v for k, v in metrics.engine["plan"].items() if k != "words"})
    return {
        "classes": classes, "steps": steps, "test_images": test, "memory_limit": memory, "layers": layers,
        "processes": ranks.count,
        "seconds": {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu},
        "parts_of_first_process": dict(clock.parts),
        "peak_bytes_of_each_process": ranks.collect(peak_memory_bytes(resolve_device("cpu"))),
        "predicted_peak_bytes": metrics.engine["predicted_peak_bytes"],
        "plan": str(plan), "loss_cpu_seconds": loss_seconds(classes, metrics.n_train),
        "counted_of_first_process": counted(found["work"], plan),
        "files": {file.name: file.stat().st_size for file in sorted(out.iterdir()) if file.is_file()},
        "accuracy": metrics.evaluation.accuracy,
    }  # fmt: skip


def loss_seconds(classes: int, images: int) -> float:
    """Return the CPU seconds of one step's loss, forward and backward, on features of the bundled model's width."""
    draw = torch.Generator().manual_seed(0)
    features = [
        F.normalize(torch.randn(rows, 256, generator=draw), dim=1).requires_grad_()
        for rows in (min(images, _BATCH), classes)
    ]
    labels = torch.randint(0, classes, (len(features[0]),), generator=draw)
    began = time.process_time()
    cross_entropy_sum(*features, torch.tensor(100.0), labels).backward()
    return time.process_time() - began


def counted(work: Workload, plan: Plan) -> dict[str, float]:
    """Return bytes that autograd keeps in a step, from shapes: as planned, and all at once."""
    naive, classes = price(work, Plan()), work.classes or len(work.lengths)
    padded = price(replace(work, lengths=(77,) * len(work.lengths), opening=0), Plan())
    return {
        "saved_as_planned": price(work, plan).saved,
        "saved_all_at_once": naive.saved,
        "saved_all_at_once_padded_to_77": padded.saved,
        "logits_all_at_once": 4 * 3 * work.images * classes,
        "confusion_matrix": 8 * classes**2,
    }


def main() -> None:
    """Measure in fresh processes, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="processes that share the run")
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--memory", default="6GB", help="the limit of all processes together")
    parser.add_argument("--layers", default="all", help="which blocks are adapted, as in blocklora fit")
    default = Path(__file__).parent / "results" / "many_classes.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in ("classes", "steps", "test", "memory", "layers")}
    options["memory"] = str(parse_bytes(given.memory) // given.processes)
    if given.here:
        with joined_ranks("cpu") as ranks:
            found = run(**options, folder=given.here, ranks=ranks)
        if ranks.first:
            print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        result = in_fresh_process(
            "many_classes.py", f"--here={folder}", *arguments, processes=given.processes
        )
    kept = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    write(given.out, kept | {f"{given.processes} processes, layers {given.layers}": circumstances() | result})
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
