"""Classify images: python predict.py IMAGE... (needs transformers, torch and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from heads import probabilities
from images import open_rgb, to_pixels
from transformers import AutoModel

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    model, head = (
        AutoModel.from_pretrained(HERE, dtype=torch.float32).eval(),
        dict(np.load(HERE / "head.npz")),
    )
    for path in sys.argv[1:]:
        pixels = to_pixels(open_rgb(path, facts["preprocess"]["side"]), facts["preprocess"])
        with torch.inference_mode():
            features = model.get_image_features(pixel_values=torch.from_numpy(pixels)).pooler_output
        found = probabilities(torch.nn.functional.normalize(features).numpy(), facts, head)[0]
        best = int(found.argmax())
        print(
            json.dumps({"image": path, "label": facts["labels"][best], "probability": float(found[best])}),
            flush=True,
        )


if __name__ == "__main__":
    main()
