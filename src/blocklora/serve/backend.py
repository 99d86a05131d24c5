"""What computes the answers: a finished run with torch, or an exported folder with ONNX Runtime.

Axes: B = images of a batch, N = classes, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Backend", "BackendFacts"]


@dataclass(frozen=True)
class BackendFacts:
    """What a classifier says of itself.

    Attributes:
        labels: N labels, in the order of the probabilities.
        method: How it was fitted.
        platform: What computes: ``torch`` or ``onnxruntime``.
        notes: What is promised of its sets and of unknown images, a sentence each.
    """

    labels: tuple[str, ...]
    method: str
    platform: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What one image is.

    Attributes:
        probabilities: One a class (N,).
        set: The labels that hold the true one as often as the service promises; None where it makes no sets.
        unknown: Whether it is none of the classes; None where the service does not judge that.
    """

    probabilities: NDArray[np.float64]
    set: tuple[str, ...] | None = None
    unknown: bool | None = None


class Backend(Protocol):
    """A classifier that is ready to answer."""

    facts: BackendFacts

    def prepare(self, content: bytes, name: str) -> NDArray[np.float32]:
        """Decode the bytes of an image file into pixel values (C, S, S); many threads may call it at a time.

        Raises:
            ImageError: The bytes are no image that can be read; it calls the image ``name``.
        """

    def answer(self, pixel_values: NDArray[np.float32]) -> list[Answer]:
        """Answer for pixel values (B, C, S, S), an image each; one thread calls it."""
