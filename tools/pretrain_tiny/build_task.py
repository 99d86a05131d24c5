"""Step 9: the bundled picture task, objects of everyday life drawn by Twemoji, split so that no sibling crosses.

Two pictures are siblings if they look alike, or if the heads of their names are one word ("blue book" and "open
book"). Siblings of siblings are siblings; a whole group lies on one side of the split.

Writes ``src/blocklora/assets/twemoji``: manifest.csv, task.json and the pictures as lossless WebP, on white.
"""

import csv
import json
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from concepts import Concept
from paths import ASSETS, PICTURE_TABLE, PICTURES
from PIL import Image
from sources import SOURCES, TEST_STYLE

TASK = ASSETS / TEST_STYLE
PROMPT = "an illustration of {}."
N_TRAIN, N_VAL, MOST_TEST, MOST_SIBLINGS = 16, 4, 20, 4
ALIKE = 0.9  # correlation of two pictures at 16 x 16 pixels, all channels
# class: the emoji subgroups it takes; single labels that do not belong are named in MISFITS
CLASSES = {
    "mammal": {"animal-mammal", "monkey-face"},
    "bird, fish or insect": {"animal-bird", "animal-marine", "animal-bug"},
    "fruit or vegetable": {"food-fruit", "food-vegetable"},
    "meal": {"food-prepared", "food-asian"},
    "drink or dessert": {"drink", "food-sweet"},
    "plant": {"plant-flower", "plant-other"},
    "vehicle": {"transport-ground", "transport-air", "transport-water"},
    "building": {"place-building", "place-religious"},
    "clothing": {"clothing"},
    "tool": {"tool", "science", "medical"},
    "household item": {"household", "dishware"},
    "sports equipment": {"sport", "award-medal"},
    "toy or decoration": {"game", "event"},
    "stationery": {"office", "book-paper", "writing", "mail"},
    "electronic device": {"computer", "phone", "light-video", "music", "sound"},
}
MISFITS = {
    "paw prints", "pig nose", "feather", "wing", "spider web", "empty nest", "nest with eggs", "cooking", "canned food",
    "salt", "ice", "pouring liquid", "baby bottle", "bus stop", "construction", "fuel pump", "horizontal traffic light",
    "vertical traffic light", "motorway", "oil drum", "police car light", "railway track", "station", "stop sign",
    "wheel", "anchor", "seat", "satellite", "ring buoy", "airplane arrival", "airplane departure", "brick", "rock",
    "wood", "wedding", "building construction", "gem stone", "lipstick", "ring", "prayer beads", "hair pick",
    "shopping bags", "dna", "drop of blood", "x-ray", "pill", "adhesive bandage", "petri dish",
    "flag in hole", "club suit", "diamond suit", "heart suit", "spade suit", "moon viewing ceremony", "sparkles",
    "musical note", "musical notes", "musical score", "inbox tray", "outbox tray", "candle", "diya lamp",
    "red paper lantern", "postbox", "closed mailbox with lowered flag", "closed mailbox with raised flag",
    "open mailbox with lowered flag", "open mailbox with raised flag", "ballot box with ballot", "wastebasket",
    "bell", "bell with slash", "postal horn", "ticket", "admission tickets", "fireworks", "sparkler", "bubbles",
    "chart increasing", "chart decreasing", "bar chart", "magnifying glass tilted left", "clapper board",
    "magnifying glass tilted right", "abacus", "film frames", "kaaba",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One picture of the task: its row among all pictures, its class and its emoji."""

    row: int
    label: str
    concept: Concept


def choose() -> list[Entry]:
    """Return all pictures of the classes, before the split."""
    table = json.loads(PICTURE_TABLE.read_text(encoding="utf-8"))
    concepts = {c["key"]: Concept(**{**c, "tags": tuple(c["tags"])}) for c in table["concepts"]}
    of_subgroup = {subgroup: label for label, subgroups in CLASSES.items() for subgroup in subgroups}
    entries = []
    for row, (style, key) in enumerate(table["pictures"]):
        concept = concepts[key]
        if style == TEST_STYLE and concept.subgroup in of_subgroup and concept.label not in MISFITS:
            entries.append(Entry(row, of_subgroup[concept.subgroup], concept))
    return entries


def head(name: str) -> str:
    """Return the last word before any ``with``, ``behind``, ``of`` ..., without the word ``face``, in the singular."""
    start = re.split(r" (?:with|without|behind|on|of|and|in|showing|at) |:", name)[0]
    words = [w for w in re.findall(r"[^\W\d]+", start) if w not in ("face", "button")] or [start]
    return words[-1].removesuffix("s")


def on_white(picture: np.ndarray) -> Image.Image:
    """Return an RGBA picture laid on white."""
    image = Image.fromarray(picture)
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return ground.convert("RGB")


def look_alike(images: list[Image.Image]) -> np.ndarray:
    """Return which pairs correlate above ``ALIKE``, as they are or with one of them mirrored, bool [n, n]."""
    small = np.stack([np.asarray(i.resize((16, 16), Image.Resampling.BOX), np.float32) for i in images])

    def standardised(pictures: np.ndarray) -> np.ndarray:
        flat = pictures.reshape(len(pictures), -1)  # [n, 768]
        flat = flat - flat.mean(1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    plain, mirrored = standardised(small), standardised(small[:, :, ::-1])
    return np.maximum(plain @ plain.T, plain @ mirrored.T) > ALIKE


def sibling_groups(entries: list[Entry], alike: np.ndarray) -> list[int]:
    """Return a group number for each entry: the connected parts of "looks alike or has the same head"."""
    parent = list(range(len(entries)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, entry in enumerate(entries):
        parent[root(i)] = root(first.setdefault(head(entry.concept.label), i))
        for j in np.flatnonzero(alike[i, :i]):
            parent[root(i)] = root(int(j))
    return [root(i) for i in range(len(entries))]


def split(entries: list[Entry], groups: list[int], seed: int) -> dict[int, str]:
    """Return the side of each chosen entry, by its index.

    Groups come in random order, at most ``MOST_SIBLINGS`` of each class. A group goes to training while any of its
    classes lacks training pictures there, then likewise to validation, then to the test.
    """
    members = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    rng = np.random.default_rng(seed)
    sides: dict[int, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    ordered = list(members.values())
    for place in rng.permutation(len(ordered)):
        taken: Counter[str] = Counter()
        kept = []
        for i in rng.permutation(ordered[place]).tolist():
            taken[entries[i].label] += 1
            if taken[entries[i].label] <= MOST_SIBLINGS:
                kept.append(i)
        labels = {entries[i].label for i in kept}
        side = "test"
        for candidate, wanted in (("train", N_TRAIN), ("val", N_VAL)):
            if any(counts[label, candidate] < wanted for label in labels):
                side = candidate
                break
        for i in kept:
            label = entries[i].label
            if side == "test" and counts[label, side] >= MOST_TEST:
                continue
            counts[label, side] += 1
            sides[i] = side
    return sides


def check(entries: list[Entry], groups: list[int], sides: dict[int, str]) -> None:
    """Refuse a split that is too small or that tears a group apart."""
    counts = Counter((entries[i].label, side) for i, side in sides.items())
    for label in CLASSES:
        if counts[label, "train"] < N_TRAIN or counts[label, "val"] < N_VAL or counts[label, "test"] < 1:
            found = {side: counts[label, side] for side in ("train", "val", "test")}
            raise ValueError(
                f"class {label!r} has {found}; expected {N_TRAIN} to train and {N_VAL} to validate"
            )
    seen: dict[int, str] = {}
    for i, side in sides.items():
        if seen.setdefault(groups[i], side) != side:
            raise ValueError(f"group {groups[i]} lies on two sides")


def write(
    entries: list[Entry], groups: list[int], sides: dict[int, str], images: list[Image.Image], folder: Path
) -> None:
    """Write pictures, manifest and settings."""
    (licence,) = {s.licence for s in SOURCES if s.name == TEST_STYLE}
    (folder / "images").mkdir(parents=True)
    order = {label: place for place, label in enumerate(CLASSES)}
    side_order = {"train": 0, "val": 1, "test": 2}
    chosen = sorted(
        sides, key=lambda i: (side_order[sides[i]], order[entries[i].label], entries[i].concept.key)
    )
    names: dict[int, str] = {}
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "label", "split", "group", "source", "licence"])
        for i in chosen:
            concept = entries[i].concept
            name = f"images/{concept.key.lower()}.webp"
            images[i].save(folder / name, lossless=True, quality=100, method=6)
            group = names.setdefault(groups[i], f"g{len(names):03d}")
            source = f"Twemoji {concept.key} ({concept.label})"
            rows.writerow([name, entries[i].label, sides[i], group, source, licence])
    settings = {"prompt": PROMPT, "flip": True}
    (folder / "task.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main(seed: int = 0) -> None:
    """Build the task in a temporary folder and swap it in."""
    entries = choose()
    pictures = np.load(PICTURES, mmap_mode="r")
    images = [on_white(np.asarray(pictures[e.row])) for e in entries]
    groups = sibling_groups(entries, look_alike(images))
    sides = split(entries, groups, seed)
    check(entries, groups, sides)
    part = TASK.with_name(TASK.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write(entries, groups, sides, images, part)
    if (TASK / "README.md").exists():
        shutil.copy(TASK / "README.md", part)
    shutil.rmtree(TASK, ignore_errors=True)
    part.rename(TASK)
    counts = Counter((entries[i].label, side) for i, side in sides.items())
    for label in CLASSES:
        print(f"{label:22}", {side: counts[label, side] for side in ("train", "val", "test")})
    print({side: sum(n for (_, s), n in counts.items() if s == side) for side in ("train", "val", "test")})


if __name__ == "__main__":
    main()
