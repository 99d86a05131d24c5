"""Few-shot sampling, in the order of the literature, so that published splits come out again.

``coop``: one ``random.Random(seed)`` stream serves a whole split: k images of each class from the training pool
first, then min(k, 4) of each class for validation; a class with fewer gives all it has. Source: KaiyangZhou/CoOp
``datasets/oxford_pets.py`` and KaiyangZhou/Dassl.pytorch
``dassl/data/datasets/base_dataset.py::generate_fewshot_dataset``.

``clip-lora``: validation is drawn first, and a class with fewer images is filled up with repeats. Without a
validation part, k + min(k, 4) images of each class are drawn at once, of which the first k train. Source:
MaxZanella/CLIP-LoRA ``datasets/utils.py`` and ``datasets/imagenet.py``.

In both, classes are visited in the order in which they first appear, and nothing is ever sorted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from blocklora.core.errors import ConfigError, DataError
from blocklora.core.words import count, name_some
from blocklora.data.types import Dataset, Example, FewShotSplit

__all__ = ["Half", "SamplingProtocol", "few_shot", "half_of_classes"]

SamplingProtocol = Literal["coop", "clip-lora"]
Half = Literal["base", "new"]
MAX_VAL_SHOTS = 4


def few_shot(
    dataset: Dataset, shots: int | None, seed: int, protocol: SamplingProtocol = "coop"
) -> FewShotSplit:
    """Choose the images of one run.

    Args:
        dataset: The whole task. Only the order of its images matters, not their names.
        shots: Training images a class, 1 or more. ``None`` takes every training and validation image and draws
            nothing.
        seed: Start of the random stream. Python's global generator is neither read nor moved.
        protocol: ``coop`` or ``clip-lora``.

    Returns:
        Training, validation and test images. Without a validation split in ``dataset``, validation images
        come from what the shots left of the training pool, drawn on the same stream, and never from the test
        part. The test part is always whole.

    Raises:
        ConfigError: If ``shots`` is below 1 or not a whole number, or the protocol is unknown.
    """
    if protocol not in get_args(SamplingProtocol):
        raise ConfigError(f"protocol {protocol!r}: expected one of {', '.join(get_args(SamplingProtocol))}")
    if shots is None:
        notes = [] if dataset.val else ["no validation images: every training image is used for training"]
        return FewShotSplit(dataset.train, dataset.val, dataset.test, tuple(notes))
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise ConfigError(
            f"shots is {shots!r}: give a whole number of images a class, 1 or more, or None for all"
        )
    draw = _draw_coop if protocol == "coop" else _draw_clip_lora
    train, val = draw(dataset, shots, random.Random(seed))
    repeats = protocol == "clip-lora" and bool(dataset.val)
    notes = _short_classes(dataset, shots, repeats)
    if not dataset.val:
        notes.append(
            "no validation split: validation images are drawn from the training images that the shots left over"
            if val
            else "no validation images: there is no validation split and the shots use every training image"
        )
    return FewShotSplit(tuple(train), tuple(val), dataset.test, tuple(notes))


def half_of_classes(dataset: Dataset, split: FewShotSplit, half: Half) -> tuple[Dataset, FewShotSplit]:
    """Cut a data set and its few-shot split to the base or the new classes, relabelled from 0.

    Base are the first ceil(n / 2) of the n labels in ascending order, new are the rest. Sampling comes before
    the cut, so that both halves have the images that the whole would have. Source: KaiyangZhou/CoOp
    ``datasets/oxford_pets.py::subsample_classes``.

    Args:
        dataset: The whole task.
        split: Its few-shot split.
        half: ``base`` or ``new``.

    Raises:
        DataError: There are fewer than four classes, so that a half could have fewer than two.
    """
    n = len(dataset.class_names)
    if n < 4:
        raise DataError(
            f"{dataset.name}: {count(n, 'class')} cannot be halved: base and new need two or more each"
        )
    middle = math.ceil(n / 2)
    kept = range(middle) if half == "base" else range(middle, n)

    def cut(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(replace(e, label=e.label - kept.start) for e in examples if e.label in kept)

    names = dataset.class_names[kept.start : kept.stop]
    smaller = replace(
        dataset,
        class_names=names,
        train=cut(dataset.train),
        val=cut(dataset.val),
        test=cut(dataset.test),
        found_names=dataset.found_names[kept.start : kept.stop],
        notes=(*dataset.notes, f"{half} classes: {len(names)} of {n}, {names[0]!r} to {names[-1]!r}"),
    )
    return smaller, replace(split, train=cut(split.train), val=cut(split.val), test=smaller.test)


def _draw_coop(dataset: Dataset, shots: int, rng: random.Random) -> tuple[list[Example], list[Example]]:
    """Training first, then validation; a short class whole."""
    train = _few(dataset.train, shots, rng)
    pool: Iterable[Example] = dataset.val
    if not dataset.val:
        taken = {id(example) for example in train}  # equal images in memory are still two images
        pool = [example for example in dataset.train if id(example) not in taken]
    return train, _few(pool, min(shots, MAX_VAL_SHOTS), rng)


def _draw_clip_lora(dataset: Dataset, shots: int, rng: random.Random) -> tuple[list[Example], list[Example]]:
    """Validation first, a short class with repeats; or both at once where there is no validation part."""
    val_shots = min(shots, MAX_VAL_SHOTS)
    if dataset.val:
        val = _few(dataset.val, val_shots, rng, repeat=True)
        return _few(dataset.train, shots, rng, repeat=True), val
    train, val = [], []
    for group in _groups(dataset.train):
        drawn = rng.sample(group, min(shots + val_shots, len(group)))
        train += drawn[:shots]
        val += drawn[shots:]
    return train, val


def _few(items: Iterable[Example], k: int, rng: random.Random, *, repeat: bool = False) -> list[Example]:
    """Draw k of each class; of a shorter class take all, or k with repeats."""
    chosen: list[Example] = []
    for group in _groups(items):
        if len(group) >= k:
            chosen += rng.sample(group, k)
        else:
            chosen += rng.choices(group, k=k) if repeat else group
    return chosen


def _groups(items: Iterable[Example]) -> Iterable[list[Example]]:
    """Group by label, labels in order of first appearance."""
    groups: dict[int, list[Example]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups.values()


def _short_classes(dataset: Dataset, shots: int, repeats: bool) -> list[str]:
    """Say which classes have fewer training images than ``shots``, and which images were drawn twice."""
    counts = dict.fromkeys(range(len(dataset.class_names)), 0)
    for example in dataset.train:
        counts[example.label] += 1
    short = [f"{dataset.class_names[label]} ({n})" for label, n in counts.items() if n < shots]
    notes = []
    if short:
        named = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        notes.append(
            f"fewer than {count(shots, 'training image')} in {len(short)} of {len(counts)} classes, "
            f"{'filled up with repeats' if repeats else 'all of them used'}: {named}"
        )
    if repeats:
        val_counts = dict.fromkeys(counts, 0)
        for example in dataset.val:
            val_counts[example.label] += 1
        wanted = min(shots, MAX_VAL_SHOTS)
        few = [dataset.class_names[label] for label, n in val_counts.items() if 0 < n < wanted]
        if few:
            notes.append(
                f"fewer than {count(wanted, 'validation image')} in {count(len(few), 'class')}, filled up with "
                f"repeats: {name_some(few)}"
            )
    return notes
