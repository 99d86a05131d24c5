"""Answers of a finished run, computed with torch.

Axes: B = images of a batch, N = classes, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blocklora.classifier import in_halves
from blocklora.clip import crop_size, pixels
from blocklora.data import open_for_model
from blocklora.run.load import load_run
from blocklora.serve.backend import Answer, BackendFacts

__all__ = ["TorchBackend"]


class TorchBackend:
    """A finished run, on a device.

    Args:
        run: The RUN folder.
        device: Where to compute.
        threads: Cores that torch may use in this process; None leaves it as it is.

    Raises:
        RunError: The folder is not a finished run, or its base model has other weights now.
        ModelError: The base model cannot be loaded.
    """

    def __init__(self, run: Path, *, device: str = "auto", threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._run = load_run(run, device=device)
        classifier = self._run.classifier
        self._processor = classifier.base.processor
        labels = tuple(str(label) for label in self._run.labels)
        self.facts = BackendFacts(labels, classifier.method, "torch")

    def prepare(self, content: bytes, name: str) -> NDArray[np.float32]:
        """See ``Backend``."""
        image = open_for_model(content, crop_size(self._processor), name=name)
        return np.asarray(pixels(image, self._processor).numpy())

    @torch.no_grad()
    def answer(self, pixel_values: NDArray[np.float32]) -> list[Answer]:
        """See ``Backend``."""
        values = torch.from_numpy(pixel_values).to(self._run.compute.device)
        with self._run.compute.autocast():
            features = in_halves(self._run.classifier.image_features, values)
        return [Answer(row) for row in self._run.classifier.probabilities(features)]
