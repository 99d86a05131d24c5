"""What one image is like, without any model: size, brightness, sharpness, and two short descriptions of its pixels.

Axes: H = height, W = width. Everything but size and digest is measured on a copy of at most ``MEASURED`` pixels a
side, so that values of large and small images can be compared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import laplace

__all__ = ["HASH_BITS", "MEASURED", "SKETCH", "Properties", "properties"]

MEASURED = 256
"""The longer side, in pixels, of the copy that is measured; smaller images are measured as they are."""

SKETCH = 32
"""The side of the grey copy that stands for an image where two are compared."""

_LOW = 8  # the lowest frequencies, in each direction, that make the hash
HASH_BITS = _LOW * _LOW - 1


@dataclass(frozen=True)
class Properties:
    """What was measured of one image.

    Attributes:
        width: In pixels, as decoded: a large JPEG may have been decoded at a part of its size.
        height: In pixels.
        brightness: The mean of grey, 0 (black) to 255.
        highlight: The grey value that 95% of the pixels do not exceed.
        spread: The largest standard deviation of the three colours, in levels of 255; 0 for one colour all over.
        sharpness: The variance of the Laplacian of grey (Pech-Pacheco et al., 2000).
        bits: The perceptual hash (HASH_BITS,): whether each low frequency of the sketch's cosine transform is above
            their median (Zauner, 2010).
        sketch: The grey copy (SKETCH, SKETCH), uint8.
        digest: SHA-256 of size and RGB pixels.
    """

    width: int
    height: int
    brightness: float
    highlight: float
    spread: float
    sharpness: float
    bits: NDArray[np.bool_]
    sketch: NDArray[np.uint8]
    digest: bytes


def properties(image: Image.Image) -> Properties:
    """Measure an RGB image."""
    small = image.copy()
    small.thumbnail((MEASURED, MEASURED), Image.Resampling.BOX)
    colours = np.asarray(small, dtype=np.float64)  # (H, W, 3)
    grey = np.asarray(small.convert("L"), dtype=np.float64)  # (H, W)
    sketch = np.asarray(image.convert("L").resize((SKETCH, SKETCH), Image.Resampling.BOX))
    return Properties(
        width=image.width,
        height=image.height,
        brightness=float(grey.mean()),
        highlight=float(np.percentile(grey, 95)),
        spread=float(colours.std(axis=(0, 1)).max()),
        sharpness=float(laplace(grey, mode="nearest").var()),
        bits=_hash(sketch),
        sketch=sketch,
        digest=hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest(),
    )


def _hash(sketch: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the perceptual hash (HASH_BITS,) of a sketch; the mean brightness is no part of it."""
    low = dctn(sketch.astype(np.float64), norm="ortho")[:_LOW, :_LOW].ravel()[1:]
    bits: NDArray[np.bool_] = low > np.median(low)
    return bits
