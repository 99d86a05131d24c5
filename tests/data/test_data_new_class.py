"""A class more for a run: its name, and which of its images learn and which test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blocklora.core.errors import DataError
from blocklora.data import DataChoice, Example, content_digests
from blocklora.data.new_class import _share, check_new_name, draw_new_class


def write(folder: Path, n: int, start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(start, start + n):
        Image.new("RGB", (8, 8), (index, 2 * index, 40)).save(folder / f"{index:02}.png")
    return folder


def record(tmp_path: Path, *, val: int = 0) -> dict[str, Any]:
    """Return the split.json of a run with images of its own."""
    own = write(tmp_path / "own", 6, start=100)

    def rows(paths: list[Path]) -> list[dict[str, Any]]:
        digests = content_digests([(path.name, path) for path in paths])
        return [
            {"image": path.name, "label": 0, "class_name": "old", "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        ]

    files = sorted(own.iterdir())
    return {
        "train": rows(files[:2]),
        "val": rows(files[2 : 2 + val]),
        "test": rows(files[4:]),
        "folder": str(own),
    }


def draw(tmp_path: Path, folder: Path, *, val: int = 0, shots: int | None = None, seed: int = 0) -> Any:
    choice = DataChoice(str(tmp_path / "own"))
    return draw_new_class("new", folder, record(tmp_path, val=val), choice, label=2, shots=shots, seed=seed)


def named(part: tuple[Example, ...]) -> set[str]:
    return {Path(example.image).name for example in part}


@pytest.mark.parametrize(
    ("n", "val", "shots", "sizes"),
    [
        (16, 0, None, (12, 0, 4)),
        (16, 0, 4, (4, 0, 12)),
        (16, 2, None, (9, 3, 4)),
        (16, 2, 4, (4, 3, 9)),
        (3, 2, None, (1, 1, 1)),
        (2, 2, None, (1, 0, 1)),
        (1, 2, 4, (1, 0, 0)),
    ],
)
def test_every_image_has_one_place(
    n: int, val: int, shots: int | None, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    new = draw(tmp_path, write(tmp_path / "new", n), val=val, shots=shots)
    assert (len(new.train), len(new.val), len(new.test)) == sizes
    assert len(named(new.train) | named(new.val) | named(new.test)) == n
    assert {example.label for example in (*new.train, *new.val, *new.test)} == {2}
    if n == 1:
        assert new.notes == ("'new' has one image, so none is left to test it on",)
    else:
        assert new.notes[0].endswith("held out to test it")


@given(st.integers(1, 10_000))
def test_something_is_always_left_to_learn_from(n: int) -> None:
    tested = _share(n)
    assert 0 <= tested < n or n == 1
    assert n - tested - _share(n - tested) >= 1


def test_the_seed_decides(tmp_path: Path) -> None:
    folder = write(tmp_path / "new", 16)
    first, again, other = (draw(tmp_path, folder, seed=seed) for seed in (0, 0, 1))
    assert first.train == again.train != other.train


def test_what_the_run_has_already_and_copies_are_left_out(tmp_path: Path) -> None:
    folder, own = write(tmp_path / "new", 6), write(tmp_path / "own", 6, start=100)
    shutil.copy(own / "100.png", folder / "trained.png")
    shutil.copy(own / "105.png", folder / "tested.png")
    shutil.copy(folder / "00.png", folder / "zz_copy.png")
    new = draw(tmp_path, folder)
    left = named(new.train) | named(new.test)
    assert left == {f"{index:02}.png" for index in range(6)}
    assert "2 images of 'new' left out, because the run has the same content in another class" in new.notes[1]
    assert "trained.png (as 100.png)" in new.notes[1]
    assert new.notes[2] == "1 image of 'new' left out as copies of others there"


def test_what_cannot_be_read_is_set_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "new", 3)
    (folder / "bad.png").write_bytes(b"no image")
    (bad,) = draw(tmp_path, folder).unreadable
    assert bad.image.endswith("bad.png")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing: expected a folder with the images of the new class"):
        draw(tmp_path, tmp_path / "missing")
    with pytest.raises(DataError, match="this folder holds no images"):
        draw(tmp_path, write(tmp_path / "empty", 0))
    bad = write(tmp_path / "bad", 0)
    (bad / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of its 1 image can be used: 1 cannot be read \(.*a.png"):
        draw(tmp_path, bad)
    known = write(tmp_path / "known", 0)
    shutil.copy(write(tmp_path / "own", 6, start=100) / "101.png", known)
    with pytest.raises(DataError, match="0 cannot be read, and the run has 1 already"):
        draw(tmp_path, known)


@pytest.mark.parametrize("name", ["cat", "Cat", "black_dog", "black dog", "Black-Dog"])
def test_a_name_that_is_there_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"has the class '(cat|black_dog)' already"):
        check_new_name(name, ["cat", "black_dog"])


def test_names() -> None:
    assert check_new_name("  red fox ", ["cat"]) == "red fox"
    with pytest.raises(DataError, match="blank"):
        check_new_name("  ", ["cat"])
