"""From an image to pixel values: the model's own processor, and the random crop of training.

Axes: C = 3 colours, S = the side of the square that the model reads, in pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from blocklora.data import cut_long_side

__all__ = ["crop_size", "pixels", "random_crop", "square_processor"]

_RATIO = (3 / 4, 4 / 3)  # width / height
_TRIES = 10


def crop_size(processor: Any) -> int:
    """Return S, the side of the square image that an image processor hands to its model."""
    size = processor.crop_size if processor.do_center_crop else processor.size
    return int(size["height"])


def square_processor(processor: Any, patch_size: int) -> SiglipImageProcessorPil:
    """Return a processor that resizes images to the square which a SigLIP 2 (NaFlex) processor makes of a square.

    NaFlex keeps an image's ratio and hands out patches. A training batch of random crops is square, so that all
    images are made so here: S = ``patch_size`` times the side of the largest square of patches that it allows.

    Args:
        processor: A ``Siglip2ImageProcessorPil``.
        patch_size: The side of the model's patches in pixels.
    """
    side = patch_size * math.isqrt(processor.max_num_patches)
    kept = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    return SiglipImageProcessorPil(
        size={"height": side, "width": side}, **{name: getattr(processor, name) for name in kept}
    )


def pixels(image: Image.Image, processor: Any, *, resized: bool = False) -> torch.Tensor:
    """Turn an RGB image into normalised pixel values, as the checkpoint's processor does.

    Args:
        image: An RGB image of any size, or of S x S where ``resized``.
        processor: The checkpoint's image processor.
        resized: The image already has the model's size: only rescale and normalise it.

    Returns:
        Float32 pixel values of shape (C, S, S).
    """
    steps = {"do_resize": False, "do_center_crop": False} if resized else {}
    if not resized and processor.do_center_crop:
        image = cut_long_side(image)
    values = processor(images=image, return_tensors="pt", **steps)["pixel_values"]
    return values[0]  # type: ignore[no-any-return]


def random_crop(
    image: Image.Image, size: int, generator: np.random.Generator, *, smallest: float = 0.08
) -> Image.Image:
    """Cut out a random rectangle and resize it to a square, bicubically.

    The rectangle has ``smallest`` to 100% of the image's area and a ratio of 3:4 to 4:3, log-uniformly (Szegedy et
    al. 2015, section 6; 8% is CLIP-LoRA's recipe too). Where no such rectangle fits in ten draws, the middle of the
    image is taken.

    Args:
        image: An RGB image.
        size: The side of the result in pixels.
        generator: Where the randomness comes from.
        smallest: The smallest share of the area, in (0, 1].

    Returns:
        An image of ``size`` x ``size``.
    """
    left, top, width, height = _random_box(image.width, image.height, smallest, generator)
    cut = image.crop((left, top, left + width, top + height))
    return cut.resize((size, size), Image.Resampling.BICUBIC)


def _random_box(
    width: int, height: int, smallest: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a box (left, top, width, height) in whole pixels inside an image of width x height."""
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for _ in range(_TRIES):
        area = width * height * generator.uniform(smallest, 1.0)
        ratio = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(0, width - w + 1))
            top = int(generator.integers(0, height - h + 1))
            return left, top, w, h
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    w, h = max(w, 1), max(h, 1)
    return (width - w) // 2, (height - h) // 2, w, h
