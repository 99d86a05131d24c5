"""Files come into the folders of their classes: none is overwritten or lost, and what was begun can be done again."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.run.table.class_folders import ClassFolders, folder_names

Way = Literal["move", "copy"]
BOTH = pytest.mark.parametrize("way", ["move", "copy"])
NO_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@given(st.lists(st.text(), unique=True))
def test_every_label_has_a_folder_of_its_own(labels: list[str]) -> None:
    names = folder_names(labels)
    assert list(names) == labels
    assert len({name.casefold() for name in names.values()}) == len(labels)
    for name in names.values():
        assert name == Path(name).name
        assert not name.endswith((".", " "))
        assert not set(name) & set('<>:"/\\|?*\n\0')


def test_names_that_systems_refuse() -> None:
    assert folder_names(["t-shirt", "CON", "a/b", "a:b", "..", "", "A/B"]) == {
        "t-shirt": "t-shirt", "CON": "_CON", "a/b": "a_b", "a:b": "a_b-2", "..": "_", "": "_-2", "A/B": "A_B-3",
    }  # fmt: skip


def source(tmp_path: Path, name: str = "1.jpg", content: str = "image") -> Path:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@BOTH
def test_nothing_is_overwritten(tmp_path: Path, way: Way) -> None:
    file = source(tmp_path)
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "1.jpg").write_text("other", encoding="utf-8")
    folders = ClassFolders(tmp_path / "out", way)
    first, second = folders.plan(file, "cat"), folders.plan(tmp_path / "more" / "1.jpg", "cat")
    assert (first.name, second.name) == ("1-2.jpg", "1-3.jpg")
    first.write_text("came meanwhile", encoding="utf-8")
    assert not folders.put(file, first)
    assert file.read_text(encoding="utf-8") == "image"
    folders.planned_are_done()
    target = folders.plan(file, "cat")
    assert folders.put(file, target)
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out" / "cat").iterdir()} == {
        "1.jpg": "other", "1-2.jpg": "came meanwhile", "1-3.jpg": "image",
    }  # fmt: skip
    assert file.exists() == (way == "copy")


@BOTH
def test_what_was_done_may_be_done_again(tmp_path: Path, way: Way) -> None:
    file, folders = source(tmp_path), ClassFolders(tmp_path / "out", way)
    target = folders.plan(file, "cat")
    for _ in range(2):
        assert folders.put(file, target, again=True)
    assert target.read_text(encoding="utf-8") == "image"
    assert file.exists() == (way == "copy")
    assert [path.name for path in target.parent.iterdir()] == ["1.jpg"]


def test_a_move_that_stopped_half_way_is_ended(tmp_path: Path) -> None:
    file, folders = source(tmp_path), ClassFolders(tmp_path / "out", "move")
    target = folders.plan(file, "cat")
    target.parent.mkdir(parents=True)
    os.link(file, target)
    assert folders.put(file, target, again=True)
    assert not file.exists()
    other = source(tmp_path, content="another image")
    assert not folders.put(other, target, again=True)
    assert other.exists()


@BOTH
@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
def test_where_files_cannot_be_linked_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, code: int
) -> None:
    def link(source: Any, target: Any) -> None:
        raise OSError(code, "no links")

    monkeypatch.setattr(os, "link", link)
    file, folders = source(tmp_path), ClassFolders(tmp_path / "out", way)
    target = folders.plan(file, "cat")
    assert folders.put(file, target)
    assert target.read_text(encoding="utf-8") == "image"
    assert file.exists() == (way == "copy")
    other = source(tmp_path, content="another")
    assert not folders.put(other, target)
    assert [path.name for path in target.parent.iterdir()] == ["1.jpg"]


def test_other_failures_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Any, target: Any) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "link", link)
    file, folders = source(tmp_path), ClassFolders(tmp_path / "out", "move")
    with pytest.raises(OSError, match="broken disk"):
        folders.put(file, folders.plan(file, "cat"))
    with pytest.raises(FileNotFoundError):
        ClassFolders(tmp_path / "out", "copy").put(tmp_path / "gone.jpg", tmp_path / "out" / "gone.jpg")


@NO_WINDOWS
def test_a_link_is_moved_as_a_link_and_copied_as_a_file(tmp_path: Path) -> None:
    real = source(tmp_path, "real.jpg")
    for way in ("copy", "move"):
        os.symlink("real.jpg", link := tmp_path / "in" / f"{way}.jpg")
        folders = ClassFolders(tmp_path / way, way)  # type: ignore[arg-type]
        target = folders.plan(link, "cat")
        assert folders.put(link, target)
        assert target.read_text(encoding="utf-8") == "image"
        assert target.is_symlink() == (way == "move")
        assert os.path.lexists(link) == (way == "copy")
    assert real.exists()
