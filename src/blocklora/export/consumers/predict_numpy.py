"""Classify images: python predict.py IMAGE... (needs numpy and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
from heads import probabilities
from images import answer, to_pixels
from tower import image_features

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    weights, head = dict(np.load(HERE / "tower.npz")), dict(np.load(HERE / "head.npz"))
    base = dict(np.load(HERE / "base_tower.npz")) if (HERE / "base_tower.npz").exists() else None

    def classify(rgb):
        pixels = to_pixels(rgb, facts["preprocess"])
        features = image_features(pixels, weights, facts["tower"])
        plain = image_features(pixels, base, facts["tower"]) if base else None
        return probabilities(features, facts, head, plain)[0]

    return answer(sys.argv[1:], facts, classify)


if __name__ == "__main__":
    sys.exit(main() if sys.argv[1:] else __doc__)
