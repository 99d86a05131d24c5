"""Kill ``blocklora predict --out`` at random moments, and count rows and files afterwards.

    python benchmarks/killed_predict.py [--images N] [--kills N] [--seed N] [--out RESULT.json]

The bundled model classifies N small JPEGs into a table, with features, and moves each into the folder of its class.
The process is killed (SIGKILL) at moments drawn from the time that it is expected to take, and started again by the
same command until it ends. Then there must be one row, one row of features and one file for each image.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from blocklora import FewShotClassifier
from measuring import circumstances, write


def make_images(folder: Path, n: int) -> list[bytes]:
    """Write n JPEGs of 96 x 96 pixels into 20 folders, whose names repeat from folder to folder."""
    draw = np.random.default_rng(0)
    some = []
    for index in range(20):
        pixels = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        path = folder.parent / f"{index}.jpg"
        Image.fromarray(pixels).resize((96, 96)).save(path, quality=90)
        some.append(path.read_bytes())
    for place in range(20):
        (folder / f"part{place}").mkdir(parents=True)
    for index in range(n):
        (folder / f"part{index % 20}" / f"{index // 20}.jpg").write_bytes(some[index % 20])
    return some


def make_run(folder: Path) -> None:
    """Write a finished run of ten classes."""
    classifier = FewShotClassifier(model="tiny", method="zero-shot", device="cpu")
    names = "cat dog house tree boat sun flower fish hand car".split()
    classifier.fit([Image.new("RGB", (8, 8), (20 * n, 0, 0)) for n in range(10)], names)
    classifier.save(folder)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start the command; what it prints goes nowhere."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def attempt(command: list[str], work: Path, draw: random.Random, longest: float) -> dict[str, float]:
    """Run the command, and kill it a random time after the work folder is open; say how far it was."""
    process = start(command)
    wait = draw.uniform(0, longest)
    began = time.monotonic()
    while process.poll() is None and not (work / "settings.json").exists():
        time.sleep(0.01)
    time.sleep(wait)
    process.kill()
    process.wait()
    journal = work / "journal.jsonl"
    size = journal.stat().st_size if journal.exists() else 0
    return {"seconds": round(time.monotonic() - began, 2), "journal_bytes": size}


def check(folder: Path, n: int, table: Path, features: Path, sorted_to: Path) -> dict[str, int]:
    """Count rows, distinct images, features and files."""
    with open(table, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    vectors = np.load(features)
    return {
        "images": n,
        "rows": len(rows),
        "distinct_images": len({row["image"] for row in rows}),
        "rows_of_features": int(np.isfinite(vectors).all(axis=1).sum()),
        "files_moved": sum(len(files) for _, _, files in os.walk(sorted_to)),
        "files_where_their_row_says": sum(Path(row["moved_to"]).is_file() for row in rows),
        "distinct_targets": len({row["moved_to"] for row in rows}),
        "files_left": sum(len(files) for _, _, files in os.walk(folder)),
    }


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--longest", type=float, default=15.0, help="seconds of work after which to kill at most"
    )
    parser.add_argument("--seed", type=int, default=0)
    default = Path(__file__).parent / "results" / "killed_predict.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    arguments = parser.parse_args()
    made_on, draw = circumstances(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        make_images(base / "in", arguments.images)
        make_run(base / "run")
        table, features, sorted_to = base / "x.csv", base / "x.npy", base / "sorted"
        command = [sys.executable, "-m", "blocklora", "predict", str(base / "run"), str(base / "in"),
                   "--out", str(table), "--features", str(features), "--move-to", str(sorted_to)]  # fmt: skip
        work = base / "x.csv.work"
        kills = []
        for _ in range(arguments.kills):
            kills.append(attempt(command, work, draw, arguments.longest))
            print(kills[-1], flush=True)
        process = start(command)
        _, said = process.communicate()
        if process.returncode:
            sys.exit(said.decode())
        found = check(base / "in", arguments.images, table, features, sorted_to)
    write(arguments.out, made_on | {"kills": kills, "found": found})
    print(found)
    expected = {name: 0 if name == "files_left" else arguments.images for name in found}
    if found != expected:
        sys.exit("some are missing or there twice")


if __name__ == "__main__":
    main()
