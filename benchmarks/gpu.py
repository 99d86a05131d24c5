"""A training step on a CUDA device: Block-LoRA's lean engine beside transformers with PEFT's LoRA.

    python benchmarks/gpu.py [--rounds N] [--out results/gpu/RESULT.json]

ViT-B/16 and ViT-L/14 with random weights, 32 images, 10, 100 and 1000 of ImageNet's classes, in fp32, bf16 and fp16.
PEFT's LoRA runs twice: its prompts padded to the longest, and to 77 tokens, as CLIP-LoRA's released code has them.
Time is between two CUDA events, the steps of one shape in turn, the median of the rounds; ``times`` is the median of
the rounds' ratios. Peak memory is that of torch's tensors above the weights. A step that does not fit is listed as
null. The last part plans an ImageNet-shaped step for 8 and for 24 GB, and measures whether it kept to that.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from blocklora.training.memory.limits import plan_within
from blocklora.training.step import Plan
from measuring import circumstances, interleaved, ratio, write
from vit import Batch, Step, batch, lengths, ours, peft_lora, workload

BACKBONES, CLASSES, IMAGES = ("ViT-B/16", "ViT-L/14"), (10, 100, 1000), 32
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LIMITS = (8e9, 24e9)
OURS, PADDED, LONGEST = "block-lora, lean", "PEFT's LoRA, 77 tokens", "PEFT's LoRA, longest prompt"


def steps(backbone: str, data: Batch, dtype: torch.dtype | None) -> dict[str, Callable[[], Step]]:
    """The steps that are compared, each made when it is wanted."""
    longest = max(lengths(len(data.tokens)))
    return {
        OURS: lambda: ours(backbone, data, Plan(), dtype=dtype),
        LONGEST: lambda: peft_lora(backbone, data, padded_to=longest, dtype=dtype),
        PADDED: lambda: peft_lora(backbone, data, padded_to=data.tokens.shape[1], dtype=dtype),
    }


def peak(make: Callable[[], Step]) -> int | None:
    """Return the bytes that the second run of a step needs above what lies there; None where it does not fit."""
    try:
        step = make()
        step.run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.run()
        return torch.cuda.max_memory_allocated() - before
    except torch.OutOfMemoryError:
        return None
    finally:
        step = None
        free()


def free() -> None:
    """Give everything back to the device."""
    gc.collect()
    torch.cuda.empty_cache()


def compared(rounds: int) -> Iterator[dict[str, Any]]:
    """One row a step: milliseconds, images a second, times slower than the lean engine, peak."""
    for backbone in BACKBONES:
        for classes in CLASSES:
            data = batch(backbone, IMAGES, classes, "cuda")
            for precision, dtype in DTYPES.items():
                made = steps(backbone, data, dtype)
                peaks = {name: peak(make) for name, make in made.items()}
                able = {name: make() for name, make in made.items() if peaks[name] is not None}
                seconds = interleaved({name: step.run for name, step in able.items()}, rounds + 2)
                seconds = {name: times[2:] for name, times in seconds.items()}  # the first two warm up
                del able
                free()
                for name in made:
                    shape = {
                        "backbone": backbone,
                        "images": IMAGES,
                        "classes": classes,
                        "precision": precision,
                    }
                    yield shape | {"step": name, "peak_bytes": peaks[name]} | _timed(name, seconds)


def _timed(name: str, seconds: dict[str, list[float]]) -> dict[str, float | None]:
    """Return what the rounds say of a step."""
    if name not in seconds:
        return {"milliseconds": None, "images_per_second": None, "times": None}
    middle = statistics.median(seconds[name])
    times = ratio(seconds[name], seconds[OURS]) if OURS in seconds else None
    return {"milliseconds": 1000 * middle, "images_per_second": IMAGES / middle, "times": times}


def limited() -> Iterator[dict[str, Any]]:
    """Plan an ImageNet-shaped step for each limit, run it twice, and compare the peak with the limit."""
    for backbone in BACKBONES:
        for limit in LIMITS:
            data = batch(backbone, IMAGES, 1000, "cuda")
            made = ours(backbone, data, Plan())
            used = torch.cuda.memory_allocated()
            forecast = plan_within(workload(backbone, IMAGES, 1000), int(limit), used, 0)
            step = ours(backbone, data, forecast.plans[0].plan)
            del made
            free()
            torch.cuda.reset_peak_memory_stats()
            step.run()
            step.run()
            measured = torch.cuda.max_memory_allocated()
            yield {
                "backbone": backbone,
                "limit_bytes": limit,
                "plan": str(forecast.plans[0].plan),
                "predicted_bytes": forecast.peak(),
                "measured_bytes": measured,
                "kept": measured <= limit,
            }
            del step
            free()


def main() -> None:
    """Print every row as it comes, and write them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing was measured.")
    name = torch.cuda.get_device_name().replace(" ", "-").lower()
    rows: dict[str, list[dict[str, Any]]] = {"steps": [], "limits": []}
    for part, found in (("steps", compared(options.rounds)), ("limits", limited())):
        for row in found:
            print(row, flush=True)
            rows[part].append(row)
    write(options.out or Path("results") / "gpu" / f"{name}.json", rows | circumstances())


if __name__ == "__main__":
    main()
