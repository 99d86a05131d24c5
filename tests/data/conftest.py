"""Images and folders of images, made on the fly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from blocklora.data import Dataset, Example


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., Path]:
    """The function that writes small files, images where the ending is one, each image of its own colour."""
    made = 0

    def write(*names: str, root: str = "photos") -> Path:
        nonlocal made
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            made += 1
            if path.suffix.lower() in (".png", ".jpg", ".bmp"):
                Image.new("RGB", (3, 2), (made % 256, made // 256, 77)).save(path)
            else:
                path.write_text(f"{made}", encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Dataset]:
    """The function that makes a data set without pixels from the labels of its parts."""
    image = Image.new("RGB", (1, 1))

    def make(train: list[int], val: list[int] = (), test: list[int] = (0,)) -> Dataset:  # type: ignore[assignment]
        parts = [
            tuple(Example(f"{part}/{place}", label, image) for place, label in enumerate(labels))
            for part, labels in (("train", train), ("val", val), ("test", test))
        ]
        n_classes = max([*train, *val, *test]) + 1
        return Dataset("made", tuple(f"class {label}" for label in range(n_classes)), *parts)

    return make
