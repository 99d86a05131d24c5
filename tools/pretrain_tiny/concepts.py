"""The emoji concepts (one per Unicode emoji) with their words, and the icons that draw them.

Sources of words: emojibase-data (label, tags, group), emojilib (keywords), unicode-emoji-json (other names).
Skin-tone variants and flags are left out.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paths import source

FLAGS = {"country-flag", "subdivision-flag"}


@dataclass(frozen=True)
class Concept:
    """One emoji: ``key`` is its code points, ``label`` its name, ``tags`` its keywords."""

    key: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {**asdict(self), "tags": list(self.tags)}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def hex_key(code_points: str) -> str:
    """Return code points as in ``1F600-200D``, upper case, without the variation selector FE0F."""
    return code_points.upper().replace("-FE0F", "")


def slug(name: str) -> str:
    """Return the letters and digits of a name, in lower case, for matching names across sets."""
    return re.sub(r"[^a-z0-9]+", "", name.lower().replace("&", "and"))


def load_concepts() -> dict[str, Concept]:
    """Read all concepts, by key, in the order of emojibase."""
    base = source("emojibase-data") / "package"
    groups = _read(base / "meta" / "groups.json")
    keywords = _read(source("emojilib") / "package" / "dist" / "emoji-en-US.json")
    concepts = {}
    for entry in _read(base / "en" / "data.json"):
        if "group" not in entry or groups["groups"][str(entry["group"])] == "component":
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        if subgroup in FLAGS:
            continue
        words = [w.lower() for w in entry["tags"]] + [
            w.lower().replace("_", " ") for w in keywords.get(entry["emoji"], [])
        ]
        key = hex_key(entry["hexcode"])
        group = groups["groups"][str(entry["group"])]
        concepts[key] = Concept(key, entry["label"].lower(), tuple(dict.fromkeys(words)), group, subgroup)
    return concepts


def names_to_keys(concepts: dict[str, Concept]) -> dict[str, str]:
    """Map slugs of every known name of an emoji to its key."""
    names = {slug(c.label): key for key, c in concepts.items()}
    for emoji, entry in _read(source("unicode-emoji-json") / "package" / "data-by-emoji.json").items():
        key = hex_key("-".join(f"{ord(ch):04X}" for ch in emoji))
        if key in concepts:
            names.setdefault(slug(entry["name"]), key)
            names.setdefault(slug(entry["slug"]), key)
    return names


def icon_bodies(style: str, concepts: dict[str, Concept], names: dict[str, str]) -> dict[str, str]:
    """Return one SVG document per concept that the Iconify set ``style`` draws."""
    folder = source(style) / "package"
    icons = _read(folder / "icons.json")
    characters: dict[str, list[str]] = {}
    if (folder / "chars.json").exists():
        for code, name in _read(folder / "chars.json").items():
            characters.setdefault(name, []).append(hex_key(code))
    found: dict[str, str] = {}
    for name, icon in icons["icons"].items():
        key = next((k for k in characters.get(name, []) if k in concepts), names.get(slug(name)))
        if key is None or key in found:
            continue
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        found[key] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="96" height="96" '
            f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        )
    return found
