"""Classify images: python predict.py IMAGE... (needs numpy and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
from heads import probabilities
from images import open_rgb, to_pixels
from tower import image_features

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    weights, head = dict(np.load(HERE / "tower.npz")), dict(np.load(HERE / "head.npz"))
    for path in sys.argv[1:]:
        rgb = open_rgb(path, facts["preprocess"]["side"])
        features = image_features(to_pixels(rgb, facts["preprocess"]), weights, facts["tower"])
        found = probabilities(features, facts, head)[0]
        best = int(found.argmax())
        print(
            json.dumps({"image": path, "label": facts["labels"][best], "probability": float(found[best])}),
            flush=True,
        )


if __name__ == "__main__":
    main()
