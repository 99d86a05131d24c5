"""Step 10: the second bundled picture task, things drawn by many people, split so that no creator crosses.

Source: Open Clip Art Library 0.18 as Debian packs it (public domain). A picture's class is its folder; its creator
stands in the SVG. A creator's pictures, and pictures that look alike, form a group that lies on one side of the split.

Writes ``src/blocklora/assets/clipart``: manifest.csv, task.json, README.md and the pictures as WebP, on white.
"""

import csv
import html
import json
import re
import shutil
import struct
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from build_task import look_alike
from fetch import download, unpack
from paths import ASSETS, DOWNLOADS, source
from PIL import Image, ImageChops
from sources import Source

TASK = ASSETS / "clipart"
PROMPT = "a clip art drawing of {}."
SIDE, QUALITY = 96, 85
N_TRAIN, N_VAL, N_TEST = 16, 4, 5
MOST = {"train": 24, "val": 6, "test": 30}
MOST_BY_ONE = 12  # pictures of one creator in one class
MOST_PIXELS = 12_000_000
FREE = {"http://web.resource.org/cc/PublicDomain", "http://creativecommons.org/licenses/publicdomain/"}
NOBODY = {"", "anonymous", "unknown", "none", "n a"}
# fmt: off
# ruff: noqa: E501
PACKAGES = tuple(
    Source(f"openclipart-{kind}", "debian", f"openclipart-{kind}", "1:0.18+dfsg-19", sha256, "public domain", "Open Clip Art Library", "test")
    for kind, sha256 in (
        ("png", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"),
        ("svg", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"),
    )
)
# fmt: on
# class: the folders it takes, with all that is in them
CLASSES = {
    "mammal": ["animals/mammals"],
    "bird": ["animals/birds"],
    "insect": ["animals/bugs"],
    "flower": ["plants/flowers"],
    "fruit": ["food/fruit"],
    "drink": ["food/beverages"],
    "office supply": ["office"],
    "building": ["buildings"],
    "vehicle": ["transportation"],
    "tool": ["tools"],
    "computer hardware": ["computer/hardware"],
    "music": ["recreation/music"],
    "sport": ["recreation/sports"],
    "flag": ["signs_and_symbols/flags"],
}
NOT = (
    "buildings/furniture",
    "office/telephone",
    "tools/toys",
    "tools/weapons",
    "transportation/boating",
    "transportation/roadsigns",
)
# pictures that are not what their folder says, by the end of their place
MISFITS = {
    "Evel_Knievel", "Motorway_on", "airplane", "ampelfrau_matthew_gates_01", "ampelmaennchen_matthew_g_01", "anchor",
    "anchor_juliane_krug_01", "bambi", "bus_lane", "bus_opposite", "buses_and_bikes", "cattle", "crosswind", "cycle_lane",
    "cycles", "drawbridge", "end_daul", "grain_elevator_ganson", "grounded", "horse", "kaboom", "lighthouse_matthew_gates_",
    "little_tan_suitcase_jona_", "lorry_length", "no_cycles", "no_entry", "old_folks", "pass_either", "road_runner_ganson",
    "street_sign_gerald_g._01", "bus_symbol_black_01", "crossroads", "curve_ahead", "cycle_route", "departing_plane_01",
    "lighthouse_01", "quay_sign_01", "wing_mitchell_johnson_si_", "toy_paper_plane_01", "kexi_kexi_team_01",
    "gallows_frouke_01", "metal_cage_kurt_nordstro_", "scart_connector_pinout_s_02", "smoke_nicu_buculei_01",
    "smoke_nicu_buculei_02", "smoke_nicu_buculei_03", "lana_architetto_francesc_01", "liberty_architetto_franc_01",
    "handshake_01", "reunion_01", "arrow1_sergio_luiz_arauj_01", "large_braces.svg_amos_01", "spaclu_costea_bogdan_01",
    "nodding_donkey_kevin_cow_01", "capitello_modanatura_mo_01", "old_sign_ganson", "wall", "wall1", "brick_frouke_01",
    "school_hallway_gerald_g._01",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One picture: its place in the library without the ending, its class and its creator."""

    place: str
    label: str
    creator: str


def plain(name: str) -> str:
    """Return a creator's name without addresses, titles, case and order of words: spellings of one name are equal."""
    name = re.sub(r"[(\[<].*?[)\]>]|\S+@\S+|https?://\S+", " ", html.unescape(name)).lower()
    words = re.findall(r"[^\W\d_]+", name.replace(".", ""))
    return " ".join(sorted(word for word in words if word != "architetto"))


def creator_of(svg: str) -> str | None:
    """Return the creator that an SVG names; None if it names none, or its licence is not the public domain."""
    licences = set(re.findall(r'cc:license[^>]*rdf:(?:resource|about)="([^"]*)"', svg, re.IGNORECASE))
    found = re.search(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", svg, re.DOTALL)
    name = plain(found.group(1)) if found else ""
    return name if licences and licences <= FREE and name not in NOBODY else None


def choose(svgs: Path, pngs: Path) -> list[Entry]:
    """Return all pictures of the classes that somebody signed and that are there as a bitmap."""
    entries = []
    for label, folders in CLASSES.items():
        for path in sorted(p for folder in folders for p in (svgs / folder).rglob("*.svg")):
            place = path.relative_to(svgs).with_suffix("").as_posix()
            bitmap = pngs / f"{place}.png"
            if (
                path.is_symlink()
                or place.startswith(NOT)
                or path.stem in MISFITS
                or not bitmap.is_file()
                or bitmap.is_symlink()
            ):
                continue
            creator = creator_of(path.read_text(encoding="utf-8", errors="replace"))
            if creator:
                entries.append(Entry(place, label, creator))
    return entries


def draw(bitmap: Path) -> Image.Image | None:
    """Return a picture on a white square of 96 x 96; without its empty margins; None if it is too large or empty."""
    width, height = struct.unpack(
        ">II", bitmap.read_bytes()[16:24]
    )  # PNG's header: Pillow warns of large ones
    if width * height > MOST_PIXELS:
        return None
    image = Image.open(bitmap).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    drawn = Image.alpha_composite(white, image).convert("RGB")
    box = ImageChops.difference(drawn, white.convert("RGB")).point(lambda value: 255 * (value > 16)).getbbox()
    if box is None:
        return None
    drawn = drawn.crop(box)  # many drawings stand in a corner of an empty page
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    return picture


def groups_of(entries: list[Entry], alike: np.ndarray) -> list[int]:
    """Return a group number for each entry: the connected parts of "same creator or looks alike"."""
    parent = list(range(len(entries)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, entry in enumerate(entries):
        parent[root(i)] = root(first.setdefault(entry.creator, i))
        for j in np.flatnonzero(alike[i, :i]):
            parent[root(i)] = root(int(j))
    return [root(i) for i in range(len(entries))]


def split(entries: list[Entry], groups: list[int], seed: int) -> dict[int, str]:
    """Return the side of each chosen entry, by its index.

    The largest groups come first, so that the test has many creators. A group goes to training while any of its classes
    lacks training pictures there, then likewise to validation, then to the test. A side takes at most ``MOST``
    pictures of a class.
    """
    rng = np.random.default_rng(seed)
    members = defaultdict(list)
    for i in rng.permutation(len(entries)).tolist():
        members[groups[i]].append(i)
    counts: Counter[tuple[str, str]] = Counter()
    sides: dict[int, str] = {}
    for group in sorted(members, key=lambda g: (-len(members[g]), g)):
        labels = {entries[i].label for i in members[group]}
        lacking = [
            side
            for side, wanted in (("train", N_TRAIN), ("val", N_VAL))
            if any(counts[label, side] < wanted for label in labels)
        ]
        side = lacking[0] if lacking else "test"
        taken: Counter[tuple[str, str]] = Counter()
        for i in members[group]:
            by_one, label = (entries[i].creator, entries[i].label), entries[i].label
            if taken[by_one] < MOST_BY_ONE and counts[label, side] < MOST[side]:
                taken[by_one] += 1
                counts[label, side] += 1
                sides[i] = side
    return sides


def check(entries: list[Entry], groups: list[int], sides: dict[int, str]) -> None:
    """Refuse a split that is too small or that tears a group apart."""
    counts = Counter((entries[i].label, side) for i, side in sides.items())
    for label in CLASSES:
        if counts[label, "train"] < N_TRAIN or counts[label, "val"] < N_VAL or counts[label, "test"] < N_TEST:
            raise ValueError(
                f"class {label!r} has {[counts[label, side] for side in MOST]} to train, validate and test"
            )
    seen: dict[int, str] = {}
    for i, side in sides.items():
        if seen.setdefault(groups[i], side) != side:
            raise ValueError(f"group {groups[i]} lies on two sides")


def write(
    entries: list[Entry], groups: list[int], sides: dict[int, str], images: list[Image.Image], folder: Path
) -> None:
    """Write pictures, manifest, settings and card."""
    (folder / "images").mkdir(parents=True)
    order, side_order = list(CLASSES), list(MOST)
    chosen = sorted(
        sides, key=lambda i: (side_order.index(sides[i]), order.index(entries[i].label), entries[i].place)
    )
    names: dict[int, str] = {}
    numbers: Counter[str] = Counter()
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "label", "split", "group", "source", "licence"])
        for i in chosen:
            entry = entries[i]
            numbers[entry.label] += 1
            name = f"images/{entry.label.replace(' ', '-')}-{numbers[entry.label]:02d}.webp"
            images[i].save(folder / name, quality=QUALITY, method=6)
            group = names.setdefault(groups[i], f"g{len(names):03d}")
            source_of = f"Open Clip Art {entry.place} by {entry.creator}"
            rows.writerow([name, entry.label, sides[i], group, source_of, "public domain"])
    settings = {"prompt": PROMPT, "flip": True}
    (folder / "task.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    counts = Counter((entries[i].label, side) for i, side in sides.items())
    creators = {side: len({entries[i].creator for i in sides if sides[i] == side}) for side in MOST}
    (folder / "README.md").write_text(card(counts, creators), encoding="utf-8")


def card(counts: Counter[tuple[str, str]], creators: dict[str, int]) -> str:
    """Return the task's card."""
    lines = [f"| {label} | {' | '.join(str(counts[label, side]) for side in MOST)} |" for label in CLASSES]
    totals = [sum(n for (_, s), n in counts.items() if s == side) for side in MOST]
    return CARD.format(
        n_classes=len(CLASSES), n=sum(totals), side=SIDE, rows="\n".join(lines),
        totals=" | ".join(map(str, totals)), creators=" | ".join(map(str, creators.values())),
    )  # fmt: skip


CARD = """# clipart: {n_classes} kinds of things, drawn by many people

{n} pictures of the Open Clip Art Library 0.18, {side} x {side} pixels on white, lossy WebP, made by
`tools/pretrain_tiny/build_clipart.py` from Debian's packages openclipart-png and openclipart-svg 1:0.18+dfsg-19.

Licence of the pictures: public domain, dedicated by their creators; manifest.csv names them. Pictures without a creator,
or whose file does not name the public domain, are left out. Changes: a selection, cut to what is drawn, scaled, laid on white.

## Split

No creator stands on two sides, and no picture looks like one on another side (correlation above 0.9 at 16 x 16
pixels, as they are or mirrored). Creators with many pictures come first and train, so the test has many hands. Spellings of
one name are made equal by rule; a creator with two unlike names would not be noticed. The column `group` of manifest.csv
numbers what must stay together. Classes are the library's own folders, so some pictures could stand in two of them,
and a few are misfiled.

| class | train | val | test |
|---|---|---|---|
{rows}
| all | {totals} |
| creators | {creators} |

The bundled model was not trained on any of them. What adaptation brings on this task is not claimed here.
"""


def main(seed: int = 0) -> None:
    """Build the task in a temporary folder and swap it in."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        archive = download(package)
        if not source(package.name).exists():
            unpack(archive, source(package.name))
    svgs, pngs = (source(f"openclipart-{kind}") / "usr/share/openclipart" / kind for kind in ("svg", "png"))
    found = [(entry, draw(pngs / f"{entry.place}.png")) for entry in choose(svgs, pngs)]
    different = {picture.tobytes(): (entry, picture) for entry, picture in reversed(found) if picture}
    entries, images = map(list, zip(*reversed(different.values()), strict=True))
    groups = groups_of(entries, look_alike(images))
    sides = split(entries, groups, seed)
    check(entries, groups, sides)
    part = TASK.with_name(TASK.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write(entries, groups, sides, images, part)
    shutil.rmtree(TASK, ignore_errors=True)
    part.rename(TASK)
    print(dict(Counter(sides.values())))


if __name__ == "__main__":
    main()
