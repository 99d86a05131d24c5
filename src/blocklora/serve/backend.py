"""What computes the answers: a finished run with torch, or an exported folder with ONNX Runtime.

Axes: B = images of a batch, N = classes, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "Backend", "BackendFacts", "NearImage", "Why"]


@dataclass(frozen=True)
class BackendFacts:
    """What a classifier says of itself.

    Attributes:
        labels: N labels, in the order of the probabilities.
        method: How it was fitted.
        platform: What computes: ``torch`` or ``onnxruntime``.
        notes: What is promised of its sets, of unknown images and of heat maps, a sentence each.
        explains: Whether it says why.
    """

    labels: tuple[str, ...]
    method: str
    platform: str
    notes: tuple[str, ...] = ()
    explains: bool = False


@dataclass(frozen=True)
class NearImage:
    """A training image that is like an image.

    Attributes:
        image: Its name; of a path that is absolute, the last part.
        label: Its class.
        cosine: Of the two images' features.
        thumbnail: A small copy as an address with the data in it; None where the image is not there.
    """

    image: str
    label: str
    cosine: float
    thumbnail: str | None


@dataclass(frozen=True)
class Why:
    """Why one image got its answer.

    Attributes:
        evidence: Labels, the strongest first, and how far each logit, divided by the temperature, is above the mean of
            all classes.
        nearest: The nearest training images, the nearest first.
        heat_map: Rows of patches, from the top left: in [-1, 1], how much each speaks for the answer rather than the
            other classes. They cover the square that the model sees, the image's middle. None where there are none.
    """

    evidence: tuple[tuple[str, float], ...]
    nearest: tuple[NearImage, ...]
    heat_map: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Answer:
    """What one image is.

    Attributes:
        probabilities: One a class (N,).
        set: The labels that hold the true one as often as the service promises; None where it makes no sets.
        unknown: Whether it is none of the classes; None where the service does not judge that.
        why: Why it is said to be so; None where nobody asked.
    """

    probabilities: NDArray[np.float64]
    set: tuple[str, ...] | None = None
    unknown: bool | None = None
    why: Why | None = None


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

    def explain(self, pixel_values: NDArray[np.float32]) -> list[Why]:
        """Say why, for pixel values (B, C, S, S), where ``facts.explains``; one thread calls it, beside ``answer``."""
