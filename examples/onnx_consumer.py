"""A program that needs neither torch nor blocklora: onnxruntime, numpy and Pillow are enough.

    blocklora export runs/mine --format onnx --out exported
    python examples/onnx_consumer.py exported new.jpg

It adds to the exported predict.py the three most probable classes, and the set for 90% where the export has thresholds.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder, *images = map(Path, sys.argv[1:])
facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(folder / "image.onnx", providers=["CPUExecutionProvider"])

for path in images:
    rgb = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))  # (height, width, 3)
    (probabilities,) = session.run(["probabilities"], {"image": rgb})[0]
    best = np.argsort(-probabilities)[:3]
    print(f"{path}: " + ", ".join(f"{facts['labels'][place]} {probabilities[place]:.1%}" for place in best))
