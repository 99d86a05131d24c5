from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blocklora.clip import crop_size, load_image_tower, pixels, random_crop
from blocklora.clip.preprocess import _random_box


@pytest.fixture(scope="module")
def processor(clip_folder: Path) -> object:
    return load_image_tower(str(clip_folder)).processor


def test_pixels_are_the_processors(processor: object) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    values = pixels(image, processor)
    assert values.shape == (3, crop_size(processor), crop_size(processor)) == (3, 32, 32)
    small = image.resize((44, 32), Image.Resampling.BICUBIC).crop((6, 0, 38, 32))
    array = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1)
    mean, std = (
        torch.tensor(getattr(processor, name))[:, None, None] for name in ("image_mean", "image_std")
    )
    torch.testing.assert_close(values, (array - mean) / std, rtol=1e-5, atol=1e-5)


def test_a_very_long_image_is_cut_before_it_is_enlarged(
    processor: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: object, **more: object) -> Image.Image:
        sizes.append(size)
        return resize(self, size, *args, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    ramp = np.repeat(np.linspace(0, 255, 301).astype(np.uint8)[None, :, None], 3, axis=2).repeat(10, axis=0)
    long = pixels(Image.fromarray(ramp), processor)  # 301 x 10
    middle = pixels(Image.fromarray(ramp[:, 70:231]), processor)
    torch.testing.assert_close(long, middle)
    assert pixels(Image.new("RGB", (5000, 1)), processor).shape == (3, 32, 32)
    assert pixels(Image.new("RGB", (1, 5000)), processor).shape == (3, 32, 32)
    assert max(max(size) for size in sizes) <= 17 * 32


def test_a_resized_image_is_only_normalised(processor: object) -> None:
    image = Image.new("RGB", (32, 32), (255, 0, 127))
    values = pixels(image, processor, resized=True)
    mean, std = (np.array(getattr(processor, name)) for name in ("image_mean", "image_std"))
    expected = (np.array([1.0, 0.0, 127 / 255]) - mean) / std
    np.testing.assert_allclose(values[:, 5, 7].numpy(), expected, rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(0, 2**32))
def test_the_box_lies_inside_and_keeps_to_its_ranges(width: int, height: int, seed: int) -> None:
    left, top, w, h = _random_box(width, height, 0.08, np.random.default_rng(seed))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert min(w, h) >= 1
    if min(width, height) >= 100 and max(width, height) <= 133:
        assert 0.07 <= w * h / (width * height) <= 1
        assert 0.7 <= w / h <= 1.4


def test_shares_of_the_area_are_uniform() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([_random_box(1000, 1000, 0.08, generator) for _ in range(4000)])
    shares = boxes[:, 2] * boxes[:, 3] / 1e6
    counts = np.histogram(shares, bins=4, range=(0.08, 0.72))[0]  # larger ones do not fit at every ratio
    assert counts.min() / counts.max() > 0.8


def test_crop_follows_its_generator() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    one, same, other = (random_crop(image, 16, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.size == (16, 16)
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_the_smallest_share_is_the_callers() -> None:
    image = Image.fromarray(np.arange(100, dtype=np.uint8)[:, None].repeat(100, 1)).convert("RGB")
    for seed in range(20):
        rows = np.asarray(random_crop(image, 100, np.random.default_rng(seed), smallest=0.9))[:, 0, 0]
        assert int(rows.max()) - int(rows.min()) >= 80  # of 90% of the area at a ratio of 3:4 at most


def test_a_sliver_gives_its_middle() -> None:
    assert random_crop(Image.new("RGB", (1, 1000), "red"), 8, np.random.default_rng(0)).getpixel((4, 4)) == (
        255,
        0,
        0,
    )
