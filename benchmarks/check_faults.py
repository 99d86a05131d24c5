"""How much of what is wrong ``blocklora check`` finds, where it is known: faults planted in bundled tasks.

    python benchmarks/check_faults.py [--out RESULT.json] [--seeds 3]

Each task is written as class folders with its own splits (digits enlarged to 64 x 64 pixels). Planted are wrong labels
(5% of the images), ten exact copies and ten re-encoded ones (JPEG of quality 60, or resized to 70%) of training images
in the test part, three blank images and three foreign ones (of another task). Found is: a wrong label that stands among
the first suspects, a tenth as many as there are images; copies that a finding names with their originals; blank and
foreign images that are called so. Precision is the share of the findings of a kind that were planted: a task's own near
copies, odd images and wrong labels count against it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from blocklora.data import Example, load_dataset, open_image
from blocklora.explore.check import check_data
from blocklora.findings.finding import Finding
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "check_faults.json"
TASKS = {
    "digits": "clipart",
    "twemoji": "digits",
    "clipart": "digits",
}  # each with the task of the foreign images
WRONG, COPIES, BLANK, FOREIGN, ENLARGED = 0.05, 10, 3, 3, 64


@dataclass
class Faults:
    """What was planted, by the names that ``check`` uses."""

    n_images: int = 0
    wrong: set[str] = field(default_factory=set)
    exact: list[set[str]] = field(default_factory=list)
    near: list[set[str]] = field(default_factory=list)
    blank: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)


def plant(task: str, foreign: str, folder: Path, seed: int) -> Faults:
    """Write a task with faults into a folder."""
    data, rng, faults = load_dataset(task), random.Random(seed), Faults()
    every = [(part, one) for part in ("train", "val", "test") for one in getattr(data, part)]
    wrong = set(rng.sample(range(len(every)), round(WRONG * len(every))))
    written: list[tuple[str, Path]] = []  # class and file of the training images
    for place, (part, one) in enumerate(every):
        label = one.label
        if place in wrong:
            label = rng.choice([n for n in range(len(data.class_names)) if n != label])
        path = save(pixels_of(one), folder, part, data.class_names[label], f"{place:04d}.png")
        if place in wrong:
            faults.wrong.add(name(path, folder))
        elif part == "train":
            written.append((data.class_names[label], path))
    for number, (label, path) in enumerate(rng.sample(written, 2 * COPIES)):
        copy = folder / "test" / label / f"copy-{number:02d}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        if number < COPIES:
            copy.write_bytes(path.read_bytes())
            faults.exact.append({name(path, folder), name(copy, folder)})
        else:
            copy = reencoded(path, copy, number)
            faults.near.append({name(path, folder), name(copy, folder)})
    for number, colour in enumerate(("white", "black", "#777")[:BLANK]):
        path = save(
            Image.new("RGB", (96, 80), colour),
            folder,
            "train",
            rng.choice(data.class_names),
            f"blank-{number}.jpg",
        )
        faults.blank.add(name(path, folder))
    for number, one in enumerate(rng.sample(load_dataset(foreign).train, FOREIGN)):
        path = save(pixels_of(one), folder, "train", rng.choice(data.class_names), f"foreign-{number}.png")
        faults.foreign.add(name(path, folder))
    faults.n_images = len(every) + 2 * COPIES + BLANK + FOREIGN
    return faults


def pixels_of(one: Example) -> Image.Image:
    """Open an image; a very small one is enlarged."""
    image = open_image(one.source)
    return (
        image.resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC) if image.width < ENLARGED // 2 else image
    )


def save(image: Image.Image, folder: Path, part: str, label: str, file: str) -> Path:
    """Write an image into the folder of its part and class."""
    path = folder / part / label / file
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def reencoded(path: Path, copy: Path, number: int) -> Path:
    """Save an image anew: every other one as a JPEG, the others smaller."""
    image = open_image(path)
    if number % 2:
        image.save(copy.with_suffix(".jpg"), quality=60)
        return copy.with_suffix(".jpg")
    image.resize((round(image.width * 0.7), round(image.height * 0.7)), Image.Resampling.BICUBIC).save(copy)
    return copy


def name(path: Path, folder: Path) -> str:
    """Return the name that ``check`` gives an image."""
    return path.relative_to(folder).as_posix()


def measure(task: str, folder: Path, seed: int) -> dict[str, Any]:
    """Plant faults, check, and count what was found."""
    faults = plant(task, TASKS[task], folder, seed)
    found = check_data(str(folder), model="tiny").findings
    of_kind: Callable[[str], list[Finding]] = lambda kind: [one for one in found if one.kind == kind]  # noqa: E731
    suspects = [one.images[0] for one in of_kind("label")][: faults.n_images // 10]
    hits = [image for image in suspects if image in faults.wrong]
    first = suspects[: len(faults.wrong)]
    row = {
        "task": task,
        "seed": seed,
        "images": faults.n_images,
        "wrong labels found": len(hits) / len(faults.wrong),
        "precision of the suspects": len(hits) / len(suspects),
        "precision of the first as many as there are": len(faults.wrong.intersection(first))
        / len(faults.wrong),
    }
    for kind, planted in (("exact-duplicate", faults.exact), ("near-duplicate", faults.near)):
        groups = [set(one.images) for one in of_kind(kind)]
        row[f"{kind} found"] = sum(any(pair <= group for group in groups) for pair in planted)
        row[f"{kind} precision"] = share(any(pair <= group for pair in planted) for group in groups)
    leaks = [set(one.images) for one in of_kind("leak")]
    row["leak found"] = sum(any(pair <= group for group in leaks) for pair in (*faults.exact, *faults.near))
    for kind, names in (("blank", faults.blank), ("outlier", faults.foreign)):
        images = [one.images[0] for one in of_kind(kind)]
        row[f"{kind} found"] = len(names.intersection(images))
        row[f"{kind} precision"] = share(image in names for image in images)
    return row


def share(flags: Any) -> float | None:
    """Return the share of true values; None of nothing."""
    values = list(flags)
    return sum(values) / len(values) if values else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the means over the seeds, a column for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = [f"| | {' | '.join(tasks)} |", f"|---|{'---:|' * len(tasks)}"]
    for key in [key for key in rows[0] if key not in ("task", "seed")]:
        values = []
        for task in tasks:
            known = [row[key] for row in rows if row["task"] == task and row[key] is not None]
            values.append("–" if not known else f"{statistics.fmean(known):.2f}".rstrip("0").rstrip("."))
        lines.append(f"| {key} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> None:
    """Plant, check and count for every task and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for task in TASKS:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(task, Path(folder), seed))
            print(rows[-1], flush=True)
    write(options.out, circumstances() | {"rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
