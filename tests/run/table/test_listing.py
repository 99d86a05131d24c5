"""Images are listed once each, by iteration, whatever their names are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from blocklora.core.shards import Shard
from blocklora.data import Unreadable, image_files
from blocklora.run.table.listing import read_listing, write_listing


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in (
        "a.png",
        "b/1.PNG",
        "b/c/2.jpg",
        "d/3.webp",
        ".hidden/a.png",
        "b/._1.png",
        "@eaDir/a.png",
        "notes.txt",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(tmp_path: Path, *inputs: Path, shard: Shard | None = None) -> list[Path | Unreadable]:
    n = write_listing(tmp_path / "listing.jsonl", inputs, shard)
    found = list(read_listing(tmp_path / "listing.jsonl"))
    assert len(found) == n
    return found


def test_what_fit_would_find_is_found(tree: Path, tmp_path: Path) -> None:
    found = listed(tmp_path, tree)
    assert len(found) == 4
    assert {str(path) for path in found} == set(map(str, image_files(tree)))


def test_what_is_named_twice_is_listed_once(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = listed(
        tmp_path, tree / "b" / "1.PNG", tree, tree / "b", tree / "b" / ".." / "b", tree / "gone.png"
    )
    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [
                tree / "a.png",
                tree / "b" / "1.PNG",
                tree / "b" / "c" / "2.jpg",
                tree / "d" / "3.webp",
                tree / "gone.png",
            ],
        )
    )
    hidden = listed(tmp_path, tree, tree / ".hidden")  # which is found only where it is named
    assert len(hidden) == 5
    monkeypatch.chdir(tree)
    assert listed(tmp_path, Path("a.png"), Path("./a.png")) == [Path("a.png")]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names and links do not exist there")
def test_any_name_and_links(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    (root / "in").mkdir(parents=True)
    names = {os.fsdecode(b"caf\xe9.png"), "two\nlines.png", 'a "b", c.png'}
    for name in names:
        (root / "in" / name).touch()
    os.symlink(root, root / "in" / "up")
    os.symlink(root / "nowhere.png", root / "dangling.png")
    found = listed(tmp_path, root)
    assert {path.name for path in found if isinstance(path, Path)} == names | {"dangling.png"}
    assert len(found) == 4


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="all folders are open to root")
def test_a_closed_folder_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "d").chmod(0)
    found = listed(tmp_path, tree)
    (tree / "d").chmod(0o755)
    (bad,) = (one for one in found if isinstance(one, Unreadable))
    assert "cannot be listed" in bad.reason
    assert len(found) == 4


def test_a_part_of_a_listing(tree: Path, tmp_path: Path) -> None:
    everything = listed(tmp_path, tree)
    assert list(read_listing(tmp_path / "listing.jsonl", 1, 3)) == everything[1:3]


def test_shards_are_the_whole_wherever_the_folder_is(tree: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    parts = [listed(tmp_path, tree, shard=Shard(place, 3)) for place in (1, 2, 3)]
    assert sorted(str(path) for part in parts for path in part) == sorted(map(str, image_files(tree)))
    tree.rename(moved)
    for place, part in enumerate(parts, start=1):
        again = listed(tmp_path, moved, shard=Shard(place, 3))
        assert {Path(str(path)).relative_to(moved) for path in again} == {
            Path(str(path)).relative_to(tree) for path in part
        }
