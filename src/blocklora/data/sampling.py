"""Few-shot sampling, in the order of CoOp and Dassl, so that published splits come out again.

One ``random.Random(seed)`` stream serves a whole split: k images of each class from the training pool first,
then min(k, 4) of each class for validation. Classes are visited in the order in which they first appear.
Source: KaiyangZhou/CoOp ``datasets/oxford_pets.py`` and KaiyangZhou/Dassl.pytorch
``dassl/data/datasets/base_dataset.py::generate_fewshot_dataset``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from blocklora.data.types import Dataset, Example, FewShotSplit
from blocklora.errors import ConfigError

__all__ = ["few_shot"]

MAX_VAL_SHOTS = 4
NAMES_IN_A_NOTE = 5


def few_shot(dataset: Dataset, shots: int | None, seed: int) -> FewShotSplit:
    """Choose the images of one run.

    Args:
        dataset: The whole task. Only the order of its images matters, not their names.
        shots: Training images a class, 1 or more; a class with fewer gives all it has. ``None`` takes every
            training and validation image and draws nothing.
        seed: Start of the random stream. Python's global generator is neither read nor moved.

    Returns:
        Training, validation and test images. Without a validation split in ``dataset``, validation images
        come from what the shots left of the training pool, drawn on the same stream. The test part is always
        whole.

    Raises:
        ConfigError: If ``shots`` is below 1 or not a whole number.
    """
    if shots is None:
        notes = [] if dataset.val else ["no validation images: every training image is used for training"]
        return FewShotSplit(dataset.train, dataset.val, dataset.test, tuple(notes))
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise ConfigError(
            f"shots is {shots!r}: give a whole number of images a class, 1 or more, or None for all"
        )
    rng = random.Random(seed)
    train = _few(dataset.train, shots, rng)
    notes = _short_classes(dataset, shots)
    pool: Iterable[Example] = dataset.val
    if not dataset.val:
        taken = {id(example) for example in train}  # equal pictures in memory are still two pictures
        pool = [example for example in dataset.train if id(example) not in taken]
        notes.append(
            "no validation split: validation images are drawn from the training images that the shots left "
            "over"
            if pool
            else "no validation images: there is no validation split and the shots use every training image"
        )
    val = _few(pool, min(shots, MAX_VAL_SHOTS), rng)
    return FewShotSplit(tuple(train), tuple(val), dataset.test, tuple(notes))


def _few(items: Iterable[Example], k: int, rng: random.Random) -> list[Example]:
    """Draw k of each class, or take a shorter class whole; classes in order of first appearance."""
    groups: dict[int, list[Example]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    chosen: list[Example] = []
    for group in groups.values():
        chosen += rng.sample(group, k) if len(group) >= k else group
    return chosen


def _short_classes(dataset: Dataset, shots: int) -> list[str]:
    """Say which classes have fewer training images than ``shots``."""
    counts = dict.fromkeys(range(len(dataset.class_names)), 0)
    for example in dataset.train:
        counts[example.label] += 1
    short = [f"{dataset.class_names[label]} ({n})" for label, n in counts.items() if n < shots]
    if not short:
        return []
    named = ", ".join(short[:NAMES_IN_A_NOTE]) + (", ..." if len(short) > NAMES_IN_A_NOTE else "")
    return [
        f"fewer than {shots} training images in {len(short)} of {len(counts)} classes, all of them used: "
        f"{named}"
    ]
