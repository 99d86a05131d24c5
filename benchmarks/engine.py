"""What a training step costs: every level of the lean engine, transformers with PEFT's LoRA, and the frozen forward.

    python benchmarks/engine.py [--rounds N] [--skip-full] [--out RESULT.json]      (make bench)

On a CPU: ViT-B/16, float32, in three shapes (images : classes) that stand for steps of 32 images and 10, 100 and
1000 classes, and the last one at full size in low memory. FLOPs, saved bytes and the peak of resident memory come from
a fresh process each; time is CPU time on one thread, all variants in turn in one process. On a GPU: ViT-B/16 and L/14
at full size in three precisions, time between device events, and whether a full ImageNet step fits 8 and 24 GB.
The result is written anew with every shape, so that what was measured is there whenever it is stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from blocklora.core.errors import ConfigError
from blocklora.training.memory.planner import choose_plans, price
from blocklora.training.step import Plan
from counting import count
from engine_page import write_page
from measuring import circumstances, in_fresh_process, interleaved, peak_above, ratio, write
from vit import Step, bare, batch, lengths, ours, peft_lora, workload

BACKBONE = "ViT-B/16"
SHAPES = {"32:1000": (2, 63), "32:100": (4, 12), "32:10": (16, 5)}
FULL = (32, 1000)
FULL_PLAN = Plan(micro_batch=8, chunk=250)
GPU_BACKBONES = ("ViT-B/16", "ViT-L/14")
GPU_SHAPES = ((32, 10), (32, 100), FULL)
GPU_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
GPU_MEMORY = (8e9, 24e9)
PEFT = "PEFT LoRA, padded to the longest"  # of all the classes that the shape stands for
PEFT_77 = "PEFT LoRA, padded to 77"
PEFT_SHORT = "PEFT LoRA, padded to the longest here"  # of the shape's own classes
VARIANTS = (
    "lean, keeps everything",
    "lean, MLPs again",
    "lean, blocks again",
    "lean, two passes",
    PEFT,
    PEFT_SHORT,
    PEFT_77,
    "frozen forward",
)


def lean_plan(variant: str, images: int, classes: int) -> Plan:
    """The plan that a lean variant means."""
    return {
        "lean, keeps everything": Plan(),
        "lean, MLPs again": Plan("no-mlp", "no-mlp"),
        "lean, blocks again": Plan("inputs", "inputs"),
        "lean, two passes": Plan(micro_batch=-(-images // 4), chunk=-(-classes // 4)),
        "lean, full size": FULL_PLAN,
    }[variant]


def make(
    variant: str,
    images: int,
    classes: int,
    *,
    of: int | None = None,
    backbone: str = BACKBONE,
    dtype: torch.dtype | None = None,
) -> Step:
    """Build a variant's step, on the GPU where there is one; `of`: how many classes it stands for, if more."""
    data = batch(backbone, images, classes, "cuda" if torch.cuda.is_available() else "cpu")
    if variant == "frozen forward":
        return bare(backbone, data, dtype=dtype)
    if variant.startswith("PEFT"):
        padded = {PEFT: max(lengths(of or classes)), PEFT_SHORT: max(lengths(classes)), PEFT_77: 77}
        return peft_lora(backbone, data, padded_to=padded[variant], dtype=dtype)
    return ours(backbone, data, lean_plan(variant, images, classes), dtype=dtype)


def alone(variant: str, images: int, classes: int, of: int) -> dict[str, Any]:
    """Counts and peak memory of one step; for a fresh process."""
    torch.set_num_threads(1)
    step = make(variant, images, classes, of=of)
    found: dict[str, Any] = {}
    start = time.process_time()
    memory = peak_above(lambda: found.update(asdict(count(step.run, step.model))))
    return found | memory | {"cpu_seconds": time.process_time() - start}


def on_cpu(rounds: int, name: str) -> list[dict[str, Any]]:
    """A row for each variant in one shape."""
    (images, classes), of = SHAPES[name], int(name.split(":")[1])
    rows: list[dict[str, Any]] = []
    for variant in VARIANTS:
        row = {"stands_for": name, "backbone": BACKBONE, "images": images, "classes": classes}
        row |= {"type": "float32", "variant": variant}
        case = json.dumps([variant, images, classes, of])
        rows.append(row | in_fresh_process("engine.py", "--alone", case))
    steps = {variant: make(variant, images, classes, of=of).run for variant in VARIANTS}
    seconds = interleaved(steps, rounds)
    for row in rows:
        mine = seconds[row["variant"]]
        row["seconds"] = mine
        row["faster_than_peft"] = ratio(seconds[PEFT], mine)
        row["over_frozen"] = ratio(mine, seconds["frozen forward"])
        print(json.dumps(row), flush=True)
    return rows


def full_size() -> dict[str, Any]:
    """The full ImageNet step in low memory, once, and what the planner's counting says of it."""
    row = {"stands_for": "32:1000", "backbone": BACKBONE, "images": FULL[0], "classes": FULL[1],
           "type": "float32", "variant": "lean, full size"}  # fmt: skip
    row |= in_fresh_process("engine.py", "--alone", json.dumps([row["variant"], *FULL, FULL[1]]))
    need = price(workload(BACKBONE, *FULL), FULL_PLAN)
    return row | {"plan": asdict(FULL_PLAN), "predicted_flops": need.flops, "predicted_bytes": need.step}


def on_gpu(rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each backbone, shape, precision and variant; memory is what the allocator handed out at most."""
    for backbone in GPU_BACKBONES:
        for images, classes in GPU_SHAPES:
            for type_name, dtype in GPU_TYPES.items():
                for variant in VARIANTS:
                    row = {"backbone": backbone, "images": images, "classes": classes,
                           "type": type_name, "variant": variant}  # fmt: skip
                    yield row | _gpu_row(
                        make(variant, images, classes, backbone=backbone, dtype=dtype), rounds
                    )


def _gpu_row(step: Step, rounds: int) -> dict[str, Any]:
    """Time, memory and utilisation of a step, after two to warm up; {"out_of_memory": True} where it does not fit."""
    try:
        step.run()
        step.run()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = interleaved({"step": step.run}, rounds)["step"]
    except torch.cuda.OutOfMemoryError:
        return {"out_of_memory": True}
    peak = torch.cuda.max_memory_allocated()
    try:
        utilisation = torch.cuda.utilization()
    except (ModuleNotFoundError, RuntimeError):  # needs the optional NVIDIA management library
        utilisation = None
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "above_bytes": peak - before,
        "gpu_utilisation": utilisation,
    }


def fits(backbone: str, memory: float) -> dict[str, Any]:
    """Whether the full ImageNet step runs on a GPU of so many bytes, under the plan that the planner chooses for it."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory / total))
    data, work = batch(backbone, *FULL, "cuda"), workload(backbone, *FULL)
    try:
        plan = choose_plans(work, int(0.95 * memory) - 4 * work.model.parameters)[0].plan
        step = ours(backbone, data, plan)
        step.run()
        step.run()
    except (torch.cuda.OutOfMemoryError, ConfigError) as error:
        return {"backbone": backbone, "memory": memory, "fits": False, "why": str(error)}
    peak = torch.cuda.max_memory_allocated()
    return {"backbone": backbone, "memory": memory, "fits": True, "plan": asdict(plan), "peak_bytes": peak}


def summary(rows: list[dict[str, Any]]) -> str:
    """The rows as text, to look at."""
    return "\n".join(
        f"{row['images']}:{row['classes']} {row['variant']:<34} "
        f"{statistics.median(row['seconds']) if 'seconds' in row else float('nan'):8.2f} s "
        f"{row.get('above_bytes', 0) / 1e6:8.0f} MB"
        for row in rows
    )


def main() -> None:
    """Measure, write the numbers with what they were made on, and bring the page up to date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing (default 3)")
    parser.add_argument(
        "--skip-full", action="store_true", help="leave out the full-size step, which takes minutes"
    )
    default = Path(__file__).parent / "results" / "engine.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--fits", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.alone:
        print(json.dumps(alone(*json.loads(arguments.alone))))
        return
    if arguments.fits:
        print(json.dumps(fits(*json.loads(arguments.fits))))
        return
    result: dict[str, Any] = {**circumstances(), "rounds": arguments.rounds, "cpu": [], "full": None}
    result |= {"gpu_rows": [], "gpu_fits": []}
    if torch.cuda.is_available():
        for row in on_gpu(arguments.rounds):
            result["gpu_rows"].append(row)
            write(arguments.out, result)
        for backbone, memory in itertools.product(GPU_BACKBONES, GPU_MEMORY):
            found = in_fresh_process("engine.py", "--fits", json.dumps([backbone, memory]))
            result["gpu_fits"].append(found)
    else:
        for name in SHAPES:
            result["cpu"] += on_cpu(arguments.rounds, name)
            write(arguments.out, result)
        result["full"] = None if arguments.skip_full else full_size()
    write(arguments.out, result)
    print(summary(result["cpu"] + result["gpu_rows"]))
    write_page()


if __name__ == "__main__":
    main()
