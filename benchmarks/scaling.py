"""How the cost of a training step grows: with classes, images, prompt length, and backbone; and of a run, with shots.

    python benchmarks/scaling.py [--rounds N] [--skip-largest] [--out RESULT.json]

Counted from shapes for everything (``blocklora.training.memory.costs``), measured for what fits into minutes on one
CPU thread (CPU time, float32, ViT-B/32 where the backbone is not what varies). One line through all measured points,
seconds = overhead + FLOPs / speed, shows whether the counts explain the time. And the largest step: 20,000 classes,
ViT-B/16, planned for 8 GB and run once in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from blocklora.core.device import give_back_freed_memory
from blocklora.training.memory.limits import CPU_FIRST
from blocklora.training.memory.planner import choose_plans, price
from blocklora.training.step import Plan
from engine_page import write_page
from measuring import circumstances, in_fresh_process, interleaved, peak_above, write
from vit import BACKBONES, Batch, batch, lengths, ours, workload

IMAGES, CLASSES = 32, 1000
GRID: dict[str, list[Any]] = {
    "classes": [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000],
    "images": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "prompt tokens": [8, 12, 16, 24, 32, 48, 64, 77],
    "shots": [1, 2, 4, 8, 16],
}
STEPS_PER_SHOT = 500  # CLIP-LoRA's recipe, which is `fit`'s default
MEMORY = 8e9
MEASURED = "ViT-B/32"
MEASURED_GRID: dict[str, list[Any]] = {
    "classes": [10, 30, 100, 300, 1000],
    "images": [1, 2, 4, 8, 16],
    "prompt tokens": [8, 16, 32, 64, 77],
    "backbone": ["ViT-B/32", "ViT-B/16", "ViT-L/14"],
}
LARGEST = {"backbone": "ViT-B/16", "images": 2, "classes": 20000, "memory": 8e9}


def counted() -> Iterator[dict[str, Any]]:
    """FLOPs and saved bytes of a step that keeps everything, and memory of the fastest plan for ``MEMORY``."""
    for backbone in BACKBONES:
        for axis, values in GRID.items():
            for value in values:
                images, names, steps = IMAGES, lengths(CLASSES), 1
                if axis == "classes":
                    names = lengths(value)
                elif axis == "images":
                    images = value
                elif axis == "prompt tokens":
                    names = [value] * CLASSES
                else:
                    steps = STEPS_PER_SHOT * value
                work = workload(backbone, images, names)
                whole = price(work, Plan())
                best = choose_plans(work, int(MEMORY) - 4 * work.model.parameters)[0]
                yield {"backbone": backbone, "axis": axis, "value": value, "steps": steps,
                       "flops": whole.flops * steps, "saved": whole.saved, "plan": asdict(best.plan),
                       "plan_flops": best.need.flops * steps, "plan_bytes": best.need.step}  # fmt: skip


def measured(rounds: int) -> Iterator[dict[str, Any]]:
    """CPU seconds of lean steps that keep everything, beside their counted FLOPs."""
    for axis, values in MEASURED_GRID.items():
        for value in values:
            backbone = value if axis == "backbone" else MEASURED
            images = value if axis == "images" else 2
            data = batch(backbone, images, value if axis == "classes" else 12)
            names = lengths(len(data.tokens))
            if axis == "prompt tokens":
                data, names = _prompts_of(data, value), [value] * len(names)
            step = ours(backbone, data, Plan())
            step.run()  # the first finds caches cold
            seconds = min(interleaved({"step": step.run}, rounds)["step"])
            flops = price(workload(backbone, images, names), Plan()).flops
            row = {"axis": axis, "value": value, "backbone": backbone, "flops": flops, "seconds": seconds}
            print(json.dumps(row), flush=True)
            yield row


def _prompts_of(data: Batch, length: int) -> Batch:
    """The same batch with prompts of so many tokens, both special tokens included."""
    tokens = data.tokens.clone()
    random = torch.Generator().manual_seed(1)
    tokens[:, 5:] = int(tokens.max())
    tokens[:, 5 : length - 1] = torch.randint(1000, 40000, (len(tokens), length - 6), generator=random)
    return Batch(data.pixels, data.labels, tokens)


def line(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Fit seconds = overhead + FLOPs / speed, relative errors weighed alike, and say how far points are off."""
    flops, seconds = (np.array([row[name] for row in rows]) for name in ("flops", "seconds"))
    columns = np.stack([np.ones_like(flops), flops], 1) / seconds[:, None]
    overhead, per_flop = np.linalg.lstsq(columns, np.ones_like(flops), rcond=None)[0]
    off = (overhead + per_flop * flops) / seconds - 1
    return {"overhead_seconds": float(overhead), "flops_per_second": float(1 / per_flop),
            "largest_deviation": float(np.abs(off).max()), "mean_deviation": float(np.abs(off).mean())}  # fmt: skip


def largest() -> dict[str, Any]:
    """Run the largest step under the plan that is chosen for its memory; for a fresh process."""
    torch.set_num_threads(1)
    backbone, images, classes = LARGEST["backbone"], LARGEST["images"], LARGEST["classes"]
    data, work = batch(backbone, images, classes), workload(backbone, images, classes)
    give_back_freed_memory()  # as training does where memory is limited
    used = psutil.Process().memory_info().rss + 4 * work.model.parameters + CPU_FIRST
    chosen = choose_plans(work, int(LARGEST["memory"]) - used)[0]
    step = ours(backbone, data, chosen.plan)
    start, cpu = time.perf_counter(), time.process_time()
    memory = peak_above(step.run)
    return LARGEST | memory | {
        "plan": asdict(chosen.plan), "predicted_bytes": chosen.need.step, "flops": chosen.need.flops,
        "cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - start,
        "fits": memory["peak_bytes"] <= LARGEST["memory"],
    }  # fmt: skip


def main() -> None:
    """Count, measure, write the numbers with what they were made on, and bring the page up to date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of timing; the fastest counts (default 3)"
    )
    parser.add_argument("--skip-largest", action="store_true", help="leave out the 20,000 classes")
    default = Path(__file__).parent / "results" / "scaling.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    parser.add_argument("--largest", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.largest:
        print(json.dumps(largest()))
        return
    rows = list(measured(arguments.rounds))
    result: dict[str, Any] = {
        **circumstances(),
        "rounds": arguments.rounds,
        "measured": rows,
        "line": line(rows),
    }
    result["counted"] = list(counted())
    write(arguments.out, result)
    if not arguments.skip_largest:
        write(
            arguments.out.with_name("largest.json"),
            circumstances() | in_fresh_process("scaling.py", "--largest"),
        )
    print(json.dumps(result["line"]))
    write_page()


if __name__ == "__main__":
    main()
