"""The published sampling, stated again, slowly and on its own: nothing here is blocklora's.

Run it to print the golden file: ``python tests/helpers/published_sampling.py > tests/data/golden_few_shot.json``. What
it reads are the miniature split files of ``mini_trees``.
"""

from __future__ import annotations

import hashlib
import json
import random

from mini_trees import SPLIT, TRAIN, VAL, WORDNET, split_entries

SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
Pool = list[tuple[str, int]]


def pools(name: str) -> tuple[Pool, Pool]:
    """Return training and validation images of a miniature set, in file order."""
    if name == "imagenet":
        files = [f"{97 * i % 1000}" for i in range(TRAIN + VAL)]
        images = [
            (f"train/{folder}/{file}", label)
            for label, folder in enumerate(sorted(WORDNET))
            for file in sorted(f"{folder}_{file}.JPEG" for file in files)
        ]
        return images, []
    entries = split_entries(name)
    train, val = (
        [(str(image), int(str(label))) for image, label, _ in entries[part]] for part in ("train", "val")
    )
    return train, val


def in_groups(pool: Pool) -> list[Pool]:
    """One list a label; the label that comes first in the pool comes first."""
    labels: list[int] = []
    for _, label in pool:
        if label not in labels:
            labels.append(label)
    return [[item for item in pool if item[1] == label] for label in labels]


def coop(name: str, shots: int, seed: int) -> tuple[Pool, Pool]:
    """CoOp: seed; k of every training class, then min(k, 4) of every validation class; short classes whole."""
    random.seed(seed)
    train_pool, val_pool = pools(name)
    train: Pool = []
    for group in in_groups(train_pool):
        train += random.sample(group, shots) if len(group) >= shots else group
    if not val_pool:  # CoOp looks at the test part here; the leftovers of training are blocklora's own way
        val_pool = [item for item in train_pool if item not in train]
    val: Pool = []
    for group in in_groups(val_pool):
        val += random.sample(group, min(shots, 4)) if len(group) >= min(shots, 4) else group
    return train, val


def clip_lora(name: str, shots: int, seed: int) -> tuple[Pool, Pool]:
    """CLIP-LoRA: validation before training, repeats in short classes; on ImageNet k + min(k, 4) at once."""
    random.seed(seed)
    train_pool, val_pool = pools(name)
    train: Pool = []
    val: Pool = []
    if not val_pool:
        for group in in_groups(train_pool):
            drawn = random.sample(group, shots + min(4, shots))
            train, val = train + drawn[:shots], val + drawn[shots:]
        return train, val
    for group in in_groups(val_pool):
        n = min(shots, 4)
        val += random.sample(group, n) if len(group) >= n else random.choices(group, k=n)
    for group in in_groups(train_pool):
        train += random.sample(group, shots) if len(group) >= shots else random.choices(group, k=shots)
    return train, val


PROTOCOLS = {"coop": coop, "clip-lora": clip_lora}
NAMES = (*SPLIT, "imagenet")


def fingerprint(train: Pool, val: Pool) -> str:
    """Return a short hash of a sample, order included."""
    return hashlib.sha256(json.dumps([train, val]).encode()).hexdigest()[:16]


def golden() -> dict[str, str]:
    """Return the fingerprint of every sample, by "name protocol shots seed"."""
    state = random.getstate()
    try:
        return {
            f"{name} {protocol} {shots} {seed}": fingerprint(*draw(name, shots, seed))
            for name in NAMES for protocol, draw in PROTOCOLS.items() for shots in SHOTS for seed in SEEDS
        }  # fmt: skip
    finally:
        random.setstate(state)


if __name__ == "__main__":
    print(json.dumps(golden(), indent=1))
