"""Classify images: python predict.py IMAGE... (needs peft, transformers, torch and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from heads import probabilities
from images import answer, to_pixels
from peft import PeftModel
from transformers import AutoModel

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    base = HERE / "base" if (HERE / "base").is_dir() else facts["model"]
    model = AutoModel.from_pretrained(base, revision=facts["revision"], dtype=torch.float32)
    model, head = PeftModel.from_pretrained(model, HERE).eval(), dict(np.load(HERE / "head.npz"))

    def classify(rgb):
        pixels = torch.from_numpy(to_pixels(rgb, facts["preprocess"]))
        with torch.inference_mode():
            features = model.get_image_features(pixel_values=pixels).pooler_output
        return probabilities(torch.nn.functional.normalize(features).numpy(), facts, head)[0]

    return answer(sys.argv[1:], facts, classify)


if __name__ == "__main__":
    sys.exit(main() if sys.argv[1:] else __doc__)
