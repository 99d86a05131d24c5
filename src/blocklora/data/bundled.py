"""Tasks that come with the package: handwritten digits, and image folders under ``assets/``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from blocklora.core.errors import DataError
from blocklora.core.words import did_you_mean
from blocklora.data.tables import read_table
from blocklora.data.types import Dataset, Example

__all__ = ["bundled_names", "read_bundled"]

TRAIN_END, VAL_END = 776, 906  # scans of digits; see _digits
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def bundled_names() -> list[str]:
    """Return the names of the bundled tasks, sorted."""
    return sorted({"digits", *(manifest.parent.name for manifest in ASSETS.glob("*/manifest.csv"))})


def read_bundled(name: str) -> Dataset:
    """Read one bundled task.

    A folder task is ``assets/<name>/manifest.csv``, a table as ``read_table`` reads it, and optionally
    ``task.json`` with "prompt" (a template) and "flip" (whether a mirror image keeps its class).

    Args:
        name: One of ``bundled_names()``.

    Returns:
        The task as it lies there: nothing is held out.

    Raises:
        DataError: If there is no such task.
    """
    if name == "digits":
        return _digits()
    manifest = ASSETS / name / "manifest.csv"
    if name not in bundled_names():
        raise DataError(
            f"no bundled task is called {name!r}: choose one of {', '.join(bundled_names())}"
            f"{did_you_mean(name, bundled_names())}"
        )
    settings = manifest.with_name("task.json")
    options = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    found = read_table(manifest)
    chosen = {key: options[key] for key in ("prompt", "flip") if key in options}
    return replace(found, name=name, **chosen)


def _digits() -> Dataset:
    """Return scikit-learn's copy of 1797 scanned digits, 8 x 8 pixels with 17 levels of grey.

    In the file one sequence of about 128 labels (0 to 9 three times, then mixed) comes 14 times, each time
    written anew; it names no writers, of whom there are 13. Both cuts fall where the sequence starts, so no
    such sheet stands on two sides: 6 sheets train, 1 validates, 7 test. That is harder than a shuffled cut
    and closer to use (support vector machine on halves: 96.0% in file order, 99.0% shuffled). Class names and
    prompt are those of openai/CLIP ``data/prompts.md`` for MNIST. Data: E. Alpaydin and C. Kaynak, Optical
    Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, CC BY 4.0.
    """
    from sklearn.datasets import load_digits  # late: importing scikit-learn takes about a second

    scans = load_digits()
    pixels = np.rint(scans.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0..16 -> 0..255
    examples = tuple(
        Example(f"digits/{place:04d}", int(label), Image.fromarray(scan))
        for place, (scan, label) in enumerate(zip(pixels, scans.target, strict=True))
    )
    return Dataset(
        name="digits",
        class_names=tuple("0123456789"),
        train=examples[:TRAIN_END],
        val=examples[TRAIN_END:VAL_END],
        test=examples[VAL_END:],
        prompt='a photo of the number: "{}".',
        flip=False,
        notes=(
            f"split in file order, between sheets: scans 0-{TRAIN_END - 1} train, {TRAIN_END}-{VAL_END - 1} "
            f"validation, {VAL_END}-{len(examples) - 1} test",
        ),
    )
