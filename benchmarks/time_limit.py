"""What fixed views save at ViT-B/16, and how well ``fit`` knows beforehand how long it will take.

    python benchmarks/time_limit.py [--rounds N] [--steps N] [--threads N] [--out RESULT.json]

ViT-B/16 with random weights, 10 classes of 16 images of 500 x 375 pixels, on the CPU. The step of 32 images with
adapters in all layers, in the top three, and in the top three with the layers below computed once, in turn in one
process: counted FLOPs and CPU time. Then whole runs of so many steps: what ``fit`` expects before training, and what
the run takes from then on, both in seconds on the clock; other processes disturb these.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from blocklora.clip import TINY, load_clip
from blocklora.run.fit import fit_run
from blocklora.training.memory.planner import price
from blocklora.training.step import Plan
from measuring import circumstances, interleaved, ratio, write
from vit import BACKBONES, batch, layers_step, top_workload

IMAGES, CLASSES, SHOTS, TEST = 32, 10, 16, 1
VARIANTS = {"all layers": (12, False), "top 3": (3, False), "top 3, views computed once": (3, True)}


def counted() -> dict[str, float]:
    """GFLOP of a step of each variant."""
    return {
        name: price(top_workload("ViT-B/16", IMAGES, CLASSES, top, known=known), Plan()).flops / 1e9
        for name, (top, known) in VARIANTS.items()
    }


def measured(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a step of each variant, on one thread, in turn."""
    data = batch("ViT-B/16", IMAGES, CLASSES)
    steps = {name: layers_step("ViT-B/16", data, top, known=known) for name, (top, known) in VARIANTS.items()}
    for step in steps.values():
        step.run()
    return interleaved({name: step.run for name, step in steps.items()}, rounds)


def write_model(folder: Path) -> Path:
    """Write ViT-B/16 with random weights and the tokenizer of the bundled model."""
    tiny = load_clip(TINY)
    text = tiny.model.config.text_config
    words = {
        name: getattr(text, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = CLIPConfig(
        text_config=words | {"max_position_embeddings": text.max_position_embeddings},
        vision_config=BACKBONES["ViT-B/16"].vision_config.to_dict(),
        projection_dim=512,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    processor = tiny.processor
    processor.size, processor.crop_size = {"shortest_edge": 224}, {"height": 224, "width": 224}
    processor.save_pretrained(folder)
    return folder


def write_images(folder: Path) -> Path:
    """Write ten classes of photos of noise: sixteen to train on, and one to test."""
    noise = np.random.default_rng(0)
    for part, number in (("train", SHOTS), ("test", TEST)):
        for label in range(CLASSES):
            place = folder / part / f"thing {label}"
            place.mkdir(parents=True)
            for index in range(number):
                coarse = Image.fromarray(noise.integers(0, 255, (15, 20, 3), dtype=np.uint8))
                coarse.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{index}.jpg", quality=90)
    return folder


def expected_and_taken(steps: int) -> list[Mapping[str, Any]]:
    """Fit for so many steps; what was expected when training began, and what it took from then on."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        model, data = write_model(Path(name) / "model"), write_images(Path(name) / "data")
        for title, settings in (("top 3", {}), ("top 3, views computed once", {"cached_views": 1})):
            told: list[tuple[float, float]] = []
            out = Path(name) / "run"
            fit_run(
                str(data),
                out,
                model=str(model),
                device="cpu",
                iterations=steps,
                layers="top-3",
                on_expected=lambda seconds, told=told: told.append((seconds, time.monotonic())),
                **settings,
            )
            shutil.rmtree(out)
            expected, when = told[0]
            took = time.monotonic() - when
            found.append(
                {
                    "variant": title,
                    "steps": steps,
                    "expected": expected,
                    "took": took,
                    "off": expected / took - 1,
                }
            )
            print(
                f"{title}: expected {expected:.0f} s, took {took:.0f} s ({100 * (expected / took - 1):+.0f}%)"
            )
    return found


def main() -> None:
    """Measure, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing (default 3)")
    parser.add_argument("--steps", type=int, default=8, help="steps of the whole runs (default 8)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the whole runs (default 2)")
    default = Path(__file__).parent / "results" / "time_limit.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    flops = counted()
    seconds = measured(arguments.rounds)
    for name, found in seconds.items():
        share = ratio(found, seconds["all layers"])
        print(f"{name}: {flops[name]:,.0f} GFLOP, {min(found):.1f} s, {share:.2f} of all layers")
    torch.set_num_threads(arguments.threads)
    runs = expected_and_taken(arguments.steps)
    write(arguments.out, circumstances() | {"gflop": flops, "cpu_seconds_a_step": seconds, "runs": runs})


if __name__ == "__main__":
    main()
