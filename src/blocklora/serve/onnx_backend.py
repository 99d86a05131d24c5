"""Answers of an exported folder, computed with ONNX Runtime and without torch.

Axes: B = images of a batch, N = classes, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from blocklora.core.errors import RunError
from blocklora.data import cut_long_side, open_for_model
from blocklora.serve.backend import Answer, BackendFacts, Why

__all__ = ["FACTS", "OnnxBackend"]

FACTS, _MODEL, _VERSION = "export.json", "pixels.onnx", 1
_SAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ERRORS_ONLY = 3


class _Preprocess(TypedDict):
    """How pixel values are made, as the export says it."""

    side: int
    resize: str
    resample: str
    scale: float
    mean: list[float]
    std: list[float]


class OnnxBackend:
    """An exported folder.

    Args:
        folder: What ``blocklora export RUN --format onnx`` has written.
        threads: Cores to compute on; None is all.

    Raises:
        RunError: The folder is another one, or its files cannot be read.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if (facts["format"], facts["version"]) != ("onnx", _VERSION):
                raise ValueError(f"it is format {facts['format']}, version {facts['version']}")
            self._how: _Preprocess = facts["preprocess"]
            self._sampling = _SAMPLING[self._how["resample"]]
            self._mean, self._std = (np.array(self._how[key], np.float32) for key in ("mean", "std"))
            labels = tuple(str(label) for label in facts["labels"])
            self.facts = BackendFacts(labels, facts["method"], "onnxruntime")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{folder / FACTS}: cannot be read ({error}); expected a folder that 'blocklora export RUN --format "
                f"onnx' has written, by version {_VERSION} of its description."
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(
                folder / _MODEL, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has an exception for each of its statuses
            raise RunError(f"{folder / _MODEL}: cannot be used ({error}); export the run again.") from error

    def prepare(self, content: bytes, name: str) -> NDArray[np.float32]:
        """See ``Backend``."""
        image = self._resized(open_for_model(content, self._how["side"], name=name))
        shares = np.asarray(image, np.float32) * np.float32(self._how["scale"])  # (S, S, C)
        return np.ascontiguousarray(((shares - self._mean) / self._std).transpose(2, 0, 1))

    def answer(self, pixel_values: NDArray[np.float32]) -> list[Answer]:
        """See ``Backend``."""
        found = self._session.run(["probabilities"], {"pixel_values": pixel_values})[0]
        return [Answer(row) for row in np.asarray(found, np.float64)]

    def explain(self, pixel_values: NDArray[np.float32]) -> list[Why]:
        """See ``Backend``; an export keeps no training images, and ``facts.explains`` says so."""
        raise NotImplementedError

    def _resized(self, image: Image.Image) -> Image.Image:
        """Return the square that the model reads, (S, S)."""
        side = self._how["side"]
        if self._how["resize"] == "square":
            return image.resize((side, side), self._sampling)
        image = cut_long_side(image)
        short = min(image.size)
        width, height = (side * length // short for length in image.size)
        left, top = (width - side) // 2, (height - side) // 2
        return image.resize((width, height), self._sampling).crop((left, top, left + side, top + side))
