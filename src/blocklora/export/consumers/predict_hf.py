"""Classify images: python predict.py IMAGE... (needs transformers, torch and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from heads import probabilities
from images import answer, to_pixels
from transformers import AutoModel

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    model = AutoModel.from_pretrained(HERE, dtype=torch.float32).eval()
    head = dict(np.load(HERE / "head.npz"))

    def classify(rgb):
        pixels = torch.from_numpy(to_pixels(rgb, facts["preprocess"]))
        with torch.inference_mode():
            features = model.get_image_features(pixel_values=pixels).pooler_output
        return probabilities(torch.nn.functional.normalize(features).numpy(), facts, head)[0]

    return answer(sys.argv[1:], facts, classify)


if __name__ == "__main__":
    sys.exit(main() if sys.argv[1:] else __doc__)
