"""Answers of an exported folder, computed with ONNX Runtime and without torch.

Axes: B = images of a batch, N = classes, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blocklora.serve.backend import BackendFacts

__all__ = ["OnnxBackend"]


class OnnxBackend:
    """An exported folder.

    Args:
        folder: What ``blocklora export RUN --format onnx`` has written.
    """

    facts: BackendFacts

    def __init__(self, folder: Path) -> None:
        raise NotImplementedError

    def prepare(self, content: bytes, name: str) -> NDArray[np.float32]:
        """See ``Backend``."""
        raise NotImplementedError

    def probabilities(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float64]:
        """See ``Backend``."""
        raise NotImplementedError
