"""A folder as an ONNX export leaves it, with the smallest of models: how bright is an image?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import parser

PREPROCESS: dict[str, Any] = {
    "side": 32, "resize": "shortest", "resample": "bicubic", "longest": 16, "scale": 1 / 255,
    "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
}  # fmt: skip
GRAPH = """
< ir_version: 9, opset_import: ["" : 18] >
brightness (float[batch, 3, 32, 32] pixel_values) => (float[batch, 2] probabilities)
< int64[3] all = {1, 2, 3}, int64[2] column = {-1, 1}, float one = {1} >
{
    mean = ReduceMean <keepdims = 0> (pixel_values, all)
    light = Reshape (mean, column)
    dark = Sub (one, light)
    probabilities = Concat <axis = 1> (dark, light)
}
"""


def write_onnx_folder(folder: Path, **changed: Any) -> Path:
    """Write the folder; ``changed`` are other values of export.json."""
    folder.mkdir()
    facts = {
        "format": "onnx", "version": 1, "method": "brightness", "labels": ["dark", "light"],
        "preprocess": PREPROCESS,
    } | changed  # fmt: skip
    (folder / "export.json").write_text(json.dumps(facts), encoding="utf-8")
    onnx.save(parser.parse_model(GRAPH), folder / "pixels.onnx")
    return folder
