"""Features on disk: the same numbers, computed once, and never a reason for a run to fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from blocklora.classifier import store as feature_cache
from blocklora.classifier.store import FOLDER_VARIABLE, frozen_features, keep, recall, seconds_spared
from blocklora.clip import load_clip
from blocklora.data import Source

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "features"))
    return tmp_path / "features"


def test_what_was_kept_comes_back_for_the_same_thing_alone(folder: Path) -> None:
    assert recall({"n": 1}) is None
    keep({"n": 1}, torch.arange(6.0).view(1, 3, 2).transpose(1, 2), 1.0)
    found = recall({"n": 1})
    assert found is not None
    assert torch.equal(found, torch.arange(6.0).view(1, 3, 2).transpose(1, 2))
    assert recall({"n": 2}) is None
    assert recall(None) is None


def test_what_others_spent_is_told(folder: Path) -> None:
    before = seconds_spared()
    keep({"n": 1}, torch.ones(2), 2.5)
    assert seconds_spared() == before
    recall({"n": 1})
    recall({"n": 2})
    assert seconds_spared() == before + 2.5


def test_without_the_variable_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clip_folder: Path
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    keep({"a": 1}, torch.ones(2), 1.0)
    assert recall({"a": 1}) is None
    assert not list(tmp_path.glob("*.safetensors"))
    assert (
        frozen_features([("gone", tmp_path / "gone.png")], load_clip(str(clip_folder)), CPU, "fp32") is None
    )


def test_a_damaged_file_counts_as_none(folder: Path) -> None:
    keep({"a": 1}, torch.ones(3), 1.0)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert recall({"a": 1}) is None
    keep({"a": 1}, torch.zeros(3), 1.0)
    assert recall({"a": 1}) is not None


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path) -> None:
    folder.write_text("a file in the way", encoding="utf-8")
    keep({"a": 1}, torch.ones(1), 1.0)
    assert recall({"a": 1}) is None


def test_the_folder_keeps_to_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MAX_BYTES", 3000)
    clock: Iterator[int] = iter(range(1000, 2000))

    def used(place: int) -> None:  # as an old date: files of one test are of one moment
        for path in folder.glob("*.safetensors"):
            if path.stat().st_mtime > 1e6:
                os.utime(path, (next(clock),) * 2)
        assert recall({"n": place}) is not None
        for path in folder.glob("*.safetensors"):
            if path.stat().st_mtime > 1e6:
                os.utime(path, (next(clock),) * 2)

    for place in range(3):
        keep({"n": place}, torch.zeros(200), 1.0)  # 800 bytes and a header
        used(place)
    used(0)  # no longer the oldest
    left = folder / ".x.safetensors.1.tmp"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    keep({"n": 3}, torch.zeros(200), 1.0)
    assert [recall({"n": place}) is None for place in range(4)] == [False, True, False, False]
    assert not left.exists()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3000


def test_the_key_is_content_order_weights_and_how(folder: Path, clip_folder: Path, tmp_path: Path) -> None:
    clip = load_clip(str(clip_folder))
    one, two = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    one.save(tmp_path / "a.png")

    def key(pictures: list[tuple[str, Source]], precision: str = "fp32") -> object:
        return frozen_features(pictures, clip, CPU, precision)

    assert key([("a", one), ("b", two)]) == key([("b", one), ("a", two)])
    assert key([("a", one), ("b", two)]) != key([("a", two), ("b", one)])
    assert key([("a", one)]) != key([("a", one)], "bf16")
    content = (tmp_path / "a.png").read_bytes()
    before = key([("a", tmp_path / "a.png")])
    assert key([("b", content)]) == before
    two.save(tmp_path / "a.png")
    assert key([("a", tmp_path / "a.png")]) != before


def test_an_unreadable_file_means_that_nothing_is_kept(
    folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    assert (
        frozen_features([("gone", tmp_path / "gone.png")], load_clip(str(clip_folder)), CPU, "fp32") is None
    )
