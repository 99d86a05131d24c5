"""Finished RUN folders of a few images, written as ``fit`` writes them, but by hand: what is compared is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blocklora.core.files import write_json
from blocklora.metrics import answers, evaluate
from blocklora.report import RunMetrics, write_metrics, write_predictions

CLASSES = ("cat", "dog", "owl")


@dataclass(frozen=True)
class TestImage:
    """An image, its true class, and its content."""

    __test__ = False

    name: str
    label: int
    content: str = ""

    @property
    def sha256(self) -> str:
        """The hash of the content, or of the name where there is none."""
        return hashlib.sha256((self.content or self.name).encode("utf-8", "backslashreplace")).hexdigest()


def test_images(n: int) -> list[TestImage]:
    """Return n images, the classes in turn."""
    return [TestImage(f"{CLASSES[i % 3]}/{i}.png", i % 3) for i in range(n)]


test_images.__test__ = False  # type: ignore[attr-defined]


def write_run(
    folder: Path,
    images: Sequence[TestImage],
    wrong: Sequence[int] = (),
    classes: Sequence[str] = CLASSES,
    sure: float = 0.8,
    method: str = "block-lora",
) -> Path:
    """Write a finished run.

    Args:
        folder: What to make.
        images: Its test images.
        wrong: Places of those that are taken for the next class.
        classes: The names of its classes.
        sure: The probability of each answer.
        method: Its method.
    """
    folder.mkdir(parents=True)
    labels = np.array([image.label for image in images])
    taken = (labels + np.isin(np.arange(len(images)), wrong)) % len(classes)
    shares = np.full((len(images), len(classes)), (1 - sure) / (len(classes) - 1))
    shares[np.arange(len(images)), taken] = sure
    names = [image.name for image in images]
    said = answers(shares, labels)
    write_predictions(folder / "predictions.csv", names, labels.tolist(), said, classes, labels.tolist())
    metrics = replace(
        RunMetrics(evaluate(shares, labels, classes, labels)),
        method=method,
        dataset="pets",
        model="tiny",
        shots=4,
        seed=1,
        train_seconds=72.4,
        trainable_parameters=1234,
    )
    test = [
        {"image": i.name, "label": i.label, "class_name": classes[i.label], "sha256": i.sha256}
        for i in images
    ]
    write_json(folder / "split.json", {"train": [], "val": [], "test": test, "folder": None})
    write_json(folder / "config.json", {"data": str(folder / "gone")})
    write_metrics(folder / "metrics.json", metrics)
    return folder
