"""Features on disk: the same numbers, computed once, and never a reason for a run to fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from blocklora.clip import feature_cache, load_clip
from blocklora.clip.encode import encode_pictures
from blocklora.clip.feature_cache import FOLDER_VARIABLE, features_for, pictures_hash, remembered
from blocklora.clip.features import image_features

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "features"))
    return tmp_path / "features"


def test_features_are_the_towers_own_and_computed_once(folder: Path, clip_folder: Path, photos: Path) -> None:
    clip = load_clip(str(clip_folder))
    pictures = [(path.name, path) for path in sorted(photos.rglob("*.png"))[:5]]
    expected = encode_pictures(pictures, lambda x: image_features(clip.model, x), clip.processor, device=CPU)
    told: list[int] = []
    first = features_for(pictures, clip, device=CPU, on_batch=told.append)
    again = features_for(pictures, clip, device=CPU, on_batch=told.append)
    assert told == [5]
    for found in (first, again):
        assert torch.equal(found.features, expected.features)
        assert found.kept == [0, 1, 2, 3, 4]
    features_for(pictures[::-1], clip, device=CPU, on_batch=told.append)
    assert told == [5, 5]
    assert len(list(folder.iterdir())) == 2


def test_unreadable_pictures_are_named_every_time(folder: Path, clip_folder: Path, tmp_path: Path) -> None:
    clip = load_clip(str(clip_folder))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    pictures = [
        ("gone", tmp_path / "gone.png"),
        ("bad", tmp_path / "broken.png"),
        ("ok", Image.new("RGB", (9, 9))),
    ]
    for _ in range(2):
        found = features_for(pictures, clip, device=CPU)
        assert [bad.image for bad in found.unreadable] == ["gone", "bad"]
        assert found.kept == [2]
    assert not folder.exists()


def test_without_the_variable_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert remembered({"a": 1}, lambda: {"x": torch.ones(2)})["x"].tolist() == [1, 1]
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_made_anew(folder: Path) -> None:
    calls = []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.full((3,), float(len(calls)))}

    assert remembered({"a": 1}, compute)["x"][0] == 1
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert remembered({"a": 1}, compute)["x"][0] == 2
    assert remembered({"a": 1}, compute)["x"][0] == 2
    assert remembered({"a": 2}, compute)["x"][0] == 3


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path) -> None:
    folder.write_text("a file in the way", encoding="utf-8")
    assert remembered({"a": 1}, lambda: {"x": torch.ones(1)})["x"].item() == 1


def test_the_folder_keeps_to_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 3000)
    for place in range(4):
        remembered({"n": place}, lambda: {"x": torch.zeros(200)})  # 800 bytes and a header
        for age, path in enumerate(sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)):
            os.utime(path, (1000 + age, 1000 + age))
        if place == 2:
            remembered({"n": 0}, lambda: {"x": torch.zeros(200)})  # used again: no longer the oldest
    left = folder / ".x.safetensors.1.tmp"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    computed = []
    for place in (0, 1):
        remembered({"n": place}, lambda place=place: computed.append(place) or {"x": torch.zeros(200)})
    assert computed == [1]
    assert not left.exists()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3000


def test_the_hash_is_of_content_and_order(tmp_path: Path) -> None:
    one, two = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    one.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert pictures_hash([("a", tmp_path / "a.png")]) == pictures_hash([("b", content)])
    assert pictures_hash([("a", one), ("b", two)]) == pictures_hash([("b", one), ("a", two)])
    assert pictures_hash([("a", one), ("b", two)]) != pictures_hash([("a", two), ("b", one)])
