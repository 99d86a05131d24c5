"""Step 2: draw every icon at 96 x 96 and store all pictures in one array.

Writes ``pictures.npy`` (uint8 RGBA) and ``pictures.json`` (the concepts, and style and concept of each picture).
"""

import io
import json

import numpy as np
import resvg_py
from concepts import Concept, hex_key, icon_bodies, load_concepts, names_to_keys
from paths import PICTURE_TABLE, PICTURES, source
from PIL import Image
from sources import ICON_SETS

SIDE = 96


def draw(svg: str) -> np.ndarray:
    """Return the drawing as uint8 [96, 96, 4]."""
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def draw_set(style: str, concepts: dict[str, Concept], names: dict[str, str]) -> dict[str, np.ndarray]:
    """Draw one set; the 3-D set is the only one that comes as bitmaps."""
    if style == "fluent-emoji-3d":
        files = sorted((source(style) / "package" / "assets").iterdir())
        pictures = {}
        for file in files:
            key = hex_key(file.stem)
            if key in concepts:
                image = Image.open(file).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                pictures[key] = np.asarray(image)
        return pictures
    return {key: draw(svg) for key, svg in icon_bodies(style, concepts, names).items()}


def main() -> None:
    """Draw all sets."""
    concepts = load_concepts()
    names = names_to_keys(concepts)
    pictures, table = [], []
    for style in ICON_SETS:
        drawn = {k: p for k, p in draw_set(style, concepts, names).items() if p[..., 3].any()}
        print(f"{style:28} {len(drawn)} pictures", flush=True)
        pictures += drawn.values()
        table += [(style, key) for key in drawn]
    np.save(PICTURES, np.stack(pictures))
    record = {"concepts": [c.as_json() for c in concepts.values()], "pictures": table}
    PICTURE_TABLE.write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
