"""What of a data set is on disk, what is missing, and what it should look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError
from blocklora.data.literature.benchmarks import Benchmark, missing, read_benchmark

__all__ = ["expected_tree", "inventory"]

_PLACES = {
    "imagenet": ("images/train/n01440764/*.JPEG", "images/val/n01440764/*.JPEG", "classnames.txt (optional)"),
    "imagenetv2": ("imagenetv2-matched-frequency-format-val/0/*.jpeg", "classnames.txt (optional)"),
    "imagenet_sketch": ("images/n01440764/*.JPEG", "classnames.txt (optional)"),
    "imagenet_a": ("imagenet-a/n01498041/*.jpg", "classnames.txt (optional)"),
    "imagenet_r": ("imagenet-r/n01443537/*.jpg", "classnames.txt (optional)"),
    "stanford_cars": ("cars_train/*.jpg", "cars_test/*.jpg"),
}


def expected_tree(row: Benchmark) -> list[str]:
    """Return the files and folders that a data set consists of, one line each, for people to read."""
    lines = [f"{' or '.join(row.folders)}/"]
    lines += [f"    {place}" for place in _PLACES.get(row.name, (f"{row.images[0]}/",))]
    if row.split:
        lines.append(f"    {row.split}")
    if row.originals:
        lines.append(f"    {'or ' if row.split else ''}{', '.join(row.originals)}")
    elif row.rebuild:
        lines.append("    or no such file: then the split is made from the class folders")
    return lines


def inventory(row: Benchmark, root: Path) -> dict[str, Any]:
    """Look at a data set below a root folder.

    Args:
        row: Which one.
        root: The folder that holds the folders of the data sets.

    Returns:
        ``name``, ``title``, ``page``, ``prompt``, ``expected`` lines, ``folder`` (None where there is none),
        ``there`` and ``missing`` files, ``images`` of each part, ``n_classes``, ``missing_images``, ``notes``,
        ``problem`` (why it cannot be read, or None) and ``complete``.
    """
    folder = row.folder(root)
    files = {"there": [], "missing": []} | {"images": {}, "missing_images": [], "notes": [], "n_classes": 0}
    result: dict[str, Any] = {
        "name": row.name, "title": row.title, "page": row.page, "prompt": row.prompt,
        "expected": expected_tree(row), "folder": None if folder is None else str(folder), **files, "problem": None,
    }  # fmt: skip
    places = [row.images[0]] if row.images[0] else []
    for name in [*places, *([row.split] if row.split else []), *row.originals]:
        there = folder is not None and (folder / name).exists()
        if folder is not None and name == row.images[0]:
            there = row.image_folder(folder).is_dir()
        result["there" if there else "missing"].append(name)
    try:
        dataset = read_benchmark(row, root)
    except DataError as error:
        return result | {"problem": str(error), "complete": False}
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    gone = missing(example for examples in parts.values() for example in examples)
    return result | {
        "n_classes": len(dataset.class_names),
        "images": {part: len(examples) for part, examples in parts.items()},
        "missing_images": gone,
        "notes": list(dataset.notes),
        "complete": not gone and len(dataset.class_names) == row.n_classes,
    }
