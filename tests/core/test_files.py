from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from blocklora.core import files


def test_write_json_round_trip_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"é": [1, 2.5]})
    files.write_json(path, {"é": 3})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 3}
    assert os.listdir(tmp_path) == ["a.json"]


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_text(encoding="utf-8") == "1\n"


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, stage, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.bin'"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def write_half(target: Path) -> None:
    """Fail in the middle of writing a folder."""
    with files.write_folder(target) as folder:
        (folder / "two").write_text("2", encoding="utf-8")
        raise RuntimeError("half way")


def test_write_folder_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.write_folder(target) as folder:
        (folder / "one").write_text("1", encoding="utf-8")
    with pytest.raises(RuntimeError, match="half way"):
        write_half(target)
    assert [p.name for p in target.iterdir()] == ["one"]
    with files.write_folder(target) as folder:
        (folder / "three").write_text("3", encoding="utf-8")
    assert [p.name for p in target.iterdir()] == ["three"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
        with files.write_folder(tmp_path / "b") as folder:
            (folder / "c").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "b" / "c").stat().st_mode & 0o777 == 0o640


def test_write_folder_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with files.write_folder(target) as folder:
        (folder / "one").write_text("1", encoding="utf-8")
    real = os.replace

    def refuse_the_new(source: Path, destination: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        real(source, destination)

    monkeypatch.setattr(os, "replace", refuse_the_new)
    with pytest.raises(OSError, match="Input/output error"), files.write_folder(target):
        pass
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(target) == ["one"]
