"""Features on disk: the same values, computed once, and never a reason for a run to fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from blocklora.classifier import NOTHING_KEPT, FeatureStore, frozen_facts
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.data import Source

CPU = Compute(torch.device("cpu"), "fp32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def store(folder: Path) -> FeatureStore:
    return FeatureStore(folder)


def test_what_was_kept_comes_back_for_the_same_facts_alone(store: FeatureStore) -> None:
    assert store.keeps
    assert store.recall({"n": 1}) is None
    store.keep({"n": 1}, torch.arange(6.0).view(1, 3, 2).transpose(1, 2), 1.0)
    found = store.recall({"n": 1})
    assert found is not None
    assert torch.equal(found, torch.arange(6.0).view(1, 3, 2).transpose(1, 2))
    assert store.recall({"n": 2}) is None
    assert store.recall(None) is None


def test_two_stores_share_a_folder(store: FeatureStore, folder: Path) -> None:
    store.keep({"n": 1}, torch.ones(2), 1.0)
    assert FeatureStore(folder).recall({"n": 1}) is not None


def test_what_others_spent_is_told(store: FeatureStore) -> None:
    store.keep({"n": 1}, torch.ones(2), 2.5)
    assert store.seconds_spared == 0
    store.recall({"n": 1})
    store.recall({"n": 2})
    assert store.seconds_spared == 2.5


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert not NOTHING_KEPT.keeps
    NOTHING_KEPT.keep({"a": 1}, torch.ones(2), 1.0)
    assert NOTHING_KEPT.recall({"a": 1}) is None
    assert list(tmp_path.iterdir()) == []


def test_without_facts_nothing_is_kept(store: FeatureStore, folder: Path) -> None:
    store.keep(None, torch.ones(2), 1.0)
    assert not folder.exists()


def test_a_damaged_file_counts_as_none(store: FeatureStore, folder: Path) -> None:
    store.keep({"a": 1}, torch.ones(3), 1.0)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert store.recall({"a": 1}) is None
    store.keep({"a": 1}, torch.zeros(3), 1.0)
    assert store.recall({"a": 1}) is not None


def test_a_folder_that_cannot_be_written_is_no_error(store: FeatureStore, folder: Path) -> None:
    folder.write_text("a file in the way", encoding="utf-8")
    store.keep({"a": 1}, torch.ones(1), 1.0)
    assert store.recall({"a": 1}) is None


def test_the_folder_keeps_to_its_size(folder: Path) -> None:
    store = FeatureStore(folder, max_bytes=3000)
    clock: Iterator[int] = iter(range(1000, 2000))

    def age() -> None:  # give new files an old date, one after the other: files of one test are of one moment
        for path in folder.glob("*.safetensors"):
            if path.stat().st_mtime > 1e6:
                os.utime(path, (next(clock),) * 2)

    def use(place: int) -> None:
        age()
        assert store.recall({"n": place}) is not None
        age()

    for place in range(3):
        store.keep({"n": place}, torch.zeros(200), 1.0)  # 800 bytes and a header
        use(place)
    use(0)  # no longer the oldest
    left = folder / ".x.safetensors.1.tmp"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    store.keep({"n": 3}, torch.zeros(200), 1.0)
    assert [store.recall({"n": place}) is None for place in range(4)] == [False, True, False, False]
    assert not left.exists()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3000


def test_facts_are_content_order_weights_and_how(clip: Clip, tmp_path: Path) -> None:
    one, two = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    one.save(tmp_path / "a.png")

    def facts(images: list[tuple[str, Source]], precision: str = "fp32", engine: str = "auto") -> object:
        return frozen_facts(images, clip, Compute(CPU.device, precision), engine)

    assert facts([("a", one), ("b", two)]) == facts([("b", one), ("a", two)])
    assert facts([("a", one), ("b", two)]) != facts([("a", two), ("b", one)])
    assert facts([("a", one)]) != facts([("a", one)], "bf16")
    assert facts([("a", one)]) != facts([("a", one)], engine="plain")
    content = (tmp_path / "a.png").read_bytes()
    before = facts([("a", tmp_path / "a.png")])
    assert facts([("b", content)]) == before
    two.save(tmp_path / "a.png")
    assert facts([("a", tmp_path / "a.png")]) != before


def test_an_unreadable_file_has_no_facts(clip: Clip, tmp_path: Path) -> None:
    assert frozen_facts([("gone", tmp_path / "gone.png")], clip, CPU) is None
