"""Classify images: python predict.py IMAGE... (needs onnxruntime, numpy and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from images import answer

HERE = Path(__file__).parent


def main():
    """Print one JSON line an image."""
    facts = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(HERE / "image.onnx", providers=["CPUExecutionProvider"])

    def classify(rgb):
        return session.run(["probabilities"], {"image": np.asarray(rgb)})[0][0]  # (height, width, 3) to (N,)

    return answer(sys.argv[1:], facts, classify)


if __name__ == "__main__":
    sys.exit(main() if sys.argv[1:] else __doc__)
