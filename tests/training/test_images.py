from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blocklora.clip import load_image_tower, pixels
from blocklora.data import Example
from blocklora.training import TrainingImages, images


@pytest.fixture(scope="module")
def processor(clip_folder: Path) -> object:
    return load_image_tower(str(clip_folder)).processor


def examples(n: int) -> list[Example]:
    """Images whose left half is black and right half white; labels count up."""
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, 20:] = 255
    return [Example(str(index), index, Image.fromarray(halves)) for index in range(n)]


def make(processor: object, n: int = 10, **changes: Any) -> TrainingImages:
    settings: dict[str, Any] = {"batch_size": 4, "augment": "crop-flip", "seed": 1} | changes
    return TrainingImages(examples(n), processor, **settings)


def test_every_epoch_shows_every_image_once(processor: object) -> None:
    batches = make(processor)
    epochs = [[batches.indices(step) for step in range(3 * epoch, 3 * epoch + 3)] for epoch in range(4)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(chain(*epoch)) == list(range(10))
    assert len({tuple(chain(*epoch)) for epoch in epochs}) == 4


def test_a_batch_follows_from_seed_and_step(processor: object) -> None:
    values, labels = make(processor).batch(7)
    again, same = make(processor).batch(7)
    assert values.shape == (4, 3, 32, 32)
    assert torch.equal(values, again)
    assert torch.equal(labels, same)
    assert labels.tolist() == make(processor).indices(7)
    assert not torch.equal(values, make(processor, seed=2).batch(7)[0])
    assert not torch.equal(values, make(processor).batch(8)[0])


def test_fewer_images_than_a_batch(processor: object) -> None:
    values, labels = make(processor, n=3).batch(0)
    assert len(values) == 3
    assert sorted(labels.tolist()) == [0, 1, 2]


def brighter_on_the_left(values: torch.Tensor) -> torch.Tensor:
    """Tell which images were mirrored; a crop of one colour is neither."""
    left, right = values[..., :4].mean(dim=(1, 2, 3)), values[..., -4:].mean(dim=(1, 2, 3))
    return left > right + 0.1


def test_mirroring(processor: object) -> None:
    flipped = torch.cat(
        [brighter_on_the_left(make(processor, n=64, batch_size=64).batch(s)[0]) for s in range(8)]
    )
    assert 0.3 < flipped.float().mean() < 0.55
    crops = torch.cat([make(processor, n=64, batch_size=64, augment="crop").batch(s)[0] for s in range(4)])
    assert not brighter_on_the_left(crops).any()


def test_none_is_what_a_test_image_gets(processor: object) -> None:
    values, _ = make(processor, augment="none").batch(0)
    expected = pixels(examples(1)[0].source, processor)
    assert all(torch.equal(value, expected) for value in values)


def test_images_are_kept_within_a_budget(processor: object, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def count(source: Image.Image, min_side: int) -> Image.Image:
        opened.append(min_side)
        return source

    monkeypatch.setattr(images, "open_image", count)
    monkeypatch.setattr(images, "KEPT_BYTES", 2 * 3 * 40 * 40)
    batches = make(processor, n=4)
    batches.batch(0)
    batches.batch(1)
    assert opened == [128] * 6  # four at first, then the two that did not fit
