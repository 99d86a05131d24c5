"""Time and memory of ``blocklora check`` by the number of images, with the bundled model.

    python benchmarks/check_scale.py --images FOLDER [--sizes 1000,10000] [--out RESULT.json]

FOLDER is filled once with as many images as the largest size needs: JPEGs of 320 x 240 pixels, each a random part of a
bundled drawing, turned, on a ground of its own colour, in class folders. Each size is checked in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blocklora.core.device import peak_memory_bytes
from blocklora.data import load_dataset, open_image
from measuring import circumstances, in_fresh_process, write

RESULT = Path(__file__).parent / "results" / "check_scale.json"


def fill(folder: Path, n: int) -> None:
    """Write n images, and a table of the first of them for every size; what is there is left alone."""
    data = load_dataset("clipart")
    for place in range(n):
        one = data.train[place % len(data.train)]
        path = folder / data.class_names[one.label] / f"{place:06d}.jpg"
        if path.exists():
            continue
        draw = np.random.default_rng(place)
        ground = Image.new("RGB", (320, 240), tuple(int(c) for c in draw.integers(120, 256, 3)))
        image = open_image(one.source).rotate(float(draw.uniform(-40, 40)), expand=True, fillcolor="white")
        side = int(draw.integers(120, 230))
        left, top = int(draw.integers(0, 320 - side)), int(draw.integers(0, 240 - side))
        ground.paste(image.resize((side, side)), (left, top))
        path.parent.mkdir(parents=True, exist_ok=True)
        ground.save(path, quality=85)


def table(folder: Path, n: int) -> Path:
    """Write a table of the first n images."""
    files = sorted(folder.glob("*/*.jpg"), key=lambda path: path.name)[:n]
    path = folder / f"first-{n}.csv"
    rows = [f"{file.relative_to(folder).as_posix()},{file.parent.name}" for file in files]
    path.write_text("\n".join(["image,label", *rows]) + "\n", encoding="utf-8")
    return path


def one(path: Path) -> None:
    """Check the images of a table; print seconds and memory."""
    from blocklora.explore.check import check_data

    before, began, cpu = peak_memory_bytes(torch.device("cpu")), time.monotonic(), time.process_time()
    result = check_data(str(path), model="tiny", device="cpu")
    print(
        json.dumps(
            {
                "images": sum(result.parts.values()),
                "seconds": round(time.monotonic() - began, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
                "peak_bytes": peak_memory_bytes(torch.device("cpu")),
                "before_bytes": before,
                "findings": Counter(found.kind for found in result.findings),
            }
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the folder, and check every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--sizes", default="1000,10000")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        one(options.one)
        return
    sizes = [int(size) for size in options.sizes.split(",")]
    fill(options.images, max(sizes))
    rows = []
    for size in sizes:
        paths = ["--images", str(options.images), "--one", str(table(options.images, size))]
        rows.append(in_fresh_process("check_scale.py", *paths))
        print(rows[-1], flush=True)
    write(options.out, circumstances() | {"rows": rows})


if __name__ == "__main__":
    main()
