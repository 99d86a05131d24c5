"""What one image is like."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from blocklora.findings.properties import HASH_BITS, MEASURED, SKETCH, properties


def scene(seed: int = 0, size: tuple[int, int] = (300, 200)) -> Image.Image:
    """A smooth random picture with an edge."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
    image.paste((250, 20, 20), (30, 40, 120, 140))
    return image


def slow_laplacian(grey: np.ndarray) -> float:
    padded = np.pad(grey, 1, mode="edge")
    found = [
        padded[i - 1, j] + padded[i + 1, j] + padded[i, j - 1] + padded[i, j + 1] - 4 * padded[i, j]
        for i in range(1, grey.shape[0] + 1)
        for j in range(1, grey.shape[1] + 1)
    ]
    return float(np.var(found))


def test_values_are_those_of_the_image():
    image = scene(size=(40, 30))
    found = properties(image)
    grey = np.asarray(image.convert("L"), dtype=float)
    assert (found.width, found.height) == (40, 30)
    assert found.brightness == pytest.approx(grey.mean())
    assert found.highlight == pytest.approx(np.percentile(grey, 95))
    assert found.spread == pytest.approx(np.asarray(image, dtype=float).std(axis=(0, 1)).max())
    assert found.sharpness == pytest.approx(slow_laplacian(grey))
    assert found.sketch.shape == (SKETCH, SKETCH)
    assert found.bits.shape == (HASH_BITS,)


def test_large_images_are_measured_on_a_copy_of_one_size():
    image = scene(size=(2 * MEASURED, MEASURED))
    larger = image.resize((4 * MEASURED, 2 * MEASURED), Image.Resampling.NEAREST)
    one, two = properties(image), properties(larger)
    assert two.width == 4 * MEASURED
    assert two.sharpness == pytest.approx(one.sharpness, rel=1e-6)
    assert (one.bits == two.bits).all()


def test_a_blurred_copy_is_less_sharp_and_one_colour_has_no_spread():
    assert (
        properties(scene().filter(ImageFilter.GaussianBlur(4))).sharpness < properties(scene()).sharpness / 10
    )
    plain = properties(Image.new("RGB", (9, 8), "#777"))
    assert (plain.spread, plain.sharpness, plain.brightness) == (0, 0, 0x77)


def test_the_digest_is_of_size_and_pixels():
    image, buffer = scene(), io.BytesIO()
    image.save(buffer, "PNG")
    assert properties(Image.open(buffer).convert("RGB")).digest == properties(image).digest
    wide, high = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert properties(wide).digest != properties(high).digest


def test_the_hash_survives_a_jpeg_and_tells_scenes_apart():
    buffer = io.BytesIO()
    scene().save(buffer, "JPEG", quality=50)
    same = properties(Image.open(buffer).convert("RGB")).bits != properties(scene()).bits
    other = properties(scene(1)).bits != properties(scene()).bits
    assert same.sum() <= 6 < other.sum()
