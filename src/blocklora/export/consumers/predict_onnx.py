"""Classify images: python predict.py IMAGE... (needs onnxruntime, numpy and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from images import open_rgb

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(HERE / "image.onnx", providers=["CPUExecutionProvider"])
    for path in sys.argv[1:]:
        rgb = np.asarray(open_rgb(path, facts["preprocess"]["side"]))  # (height, width, 3)
        found = session.run(["probabilities"], {"image": rgb})[0][0]
        best = int(found.argmax())
        print(
            json.dumps({"image": path, "label": facts["labels"][best], "probability": float(found[best])}),
            flush=True,
        )


if __name__ == "__main__":
    main()
