from __future__ import annotations

from pathlib import Path

import pytest
import torch
from blocklora.classifier.pictures import encode_pictures
from PIL import Image

from blocklora.clip import image_features, load_image_tower, pixels
from blocklora.clip.load import ImageTower

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tower(clip_folder: Path) -> ImageTower:
    return load_image_tower(str(clip_folder))


def test_order_batches_and_unreadable_ones(tower: ImageTower, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("hello", encoding="utf-8")
    colours = ["red", "green", "blue", "white"]
    pictures = [(colour, Image.new("RGB", (40, 40), colour)) for colour in colours]
    pictures.insert(1, ("broken.jpg", broken))
    done: list[int] = []
    encoded = encode_pictures(
        pictures,
        lambda values: image_features(tower.model, values),
        tower.processor,
        device=CPU,
        batch_size=2,
        on_batch=done.append,
    )
    assert encoded.kept == [0, 2, 3, 4]
    assert [bad.image for bad in encoded.unreadable] == ["broken.jpg"]
    assert str(broken) in encoded.unreadable[0].reason
    assert done == [2, 4, 5]
    values = torch.stack([pixels(Image.new("RGB", (40, 40), colour), tower.processor) for colour in colours])
    torch.testing.assert_close(encoded.features, image_features(tower.model, values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [0, 2])
def test_nothing_readable(tower: ImageTower, tmp_path: Path, n: int) -> None:
    pictures = [("gone", tmp_path / "gone.png")] * n
    encoded = encode_pictures(pictures, tower.model, tower.processor, device=CPU)
    assert (len(encoded.features), encoded.kept, len(encoded.unreadable)) == (0, [], n)
