"""Images are found wherever pyarrow's file systems reach, and read there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from blocklora.core.errors import ConfigError, DataError
from blocklora.data import Unreadable, open_image
from blocklora.run.table.places import open_places, write_places


def places(tmp_path: Path, *inputs: object) -> list[Any]:
    n = write_places(tmp_path / "images.jsonl", map(str, inputs))
    found = [json.loads(line) for line in (tmp_path / "images.jsonl").read_bytes().splitlines()]
    assert len(found) == n
    return found


def sizes(found: list[Any]) -> list[tuple[int, int] | str]:
    """Return the size of each image, or why it cannot be read."""
    return [
        source.reason if isinstance(source, Unreadable) else open_image(source).size
        for _, source in open_places(found)
    ]


def test_folders_by_path_and_by_uri(photos: Path, tmp_path: Path) -> None:
    folder = photos / "red_square"
    by_path = places(tmp_path, folder)
    by_uri = places(tmp_path, folder.as_uri())
    assert sorted(by_uri) == sorted(Path(name).as_uri() for name in by_path)
    assert sizes(by_uri) == sizes(by_path) == [(40, 48)] * 12
    assert places(tmp_path, (folder / "1.png").as_uri()) == [(folder / "1.png").as_uri()]


def test_what_is_hidden_or_no_image_is_left_out(photos: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b/2.PNG", ".hidden/3.png", "b/._4.png", "notes.txt"):
        (path := tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((photos / "red_square" / "1.png").read_bytes())
    found = places(tmp_path, (tmp_path / "in").as_uri())
    assert sorted(Path(name).name for name in found) == ["2.PNG", "a.png"]


def test_a_table_of_paths(photos: Path, tmp_path: Path) -> None:
    one = photos / "red_square" / "1.png"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "own.png").write_bytes(one.read_bytes())
    names = [str(one), one.as_uri(), "own.png", "gone.png"]
    pyarrow.parquet.write_table(pa.table({"image": names}), tmp_path / "in" / "t.parquet")
    found = places(tmp_path, tmp_path / "in" / "t.parquet")
    assert found == [str(one), one.as_uri(), f"{tmp_path}/in/own.png", f"{tmp_path}/in/gone.png"]
    assert sizes(found[:3]) == [(40, 48)] * 3


@pytest.mark.parametrize("by_uri", [True, False])
def test_a_table_of_contents(photos: Path, tmp_path: Path, by_uri: bool) -> None:
    content = (photos / "red_square" / "1.png").read_bytes()
    path = tmp_path / "t.parquet"
    cells = [{"bytes": content, "path": "x"}, {"bytes": None, "path": "y"}, {"bytes": content, "path": None}]
    pyarrow.parquet.write_table(pa.table({"image": cells}), path, row_group_size=2)
    found = places(tmp_path, path.as_uri() if by_uri else path)
    assert [(row["group"], row["row"]) for row in found] == [(0, 0), (0, 1), (1, 0)]
    first, second, third = sizes(found)
    assert first == third == (40, 48)
    assert "this cell holds no image" in str(second)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    ((name, source),) = open_places([(tmp_path / "gone.png").as_uri()])
    assert isinstance(source, Unreadable)
    assert source.reason.startswith(f"{name}: cannot be read")
    with pytest.raises(DataError, match="gone: cannot be listed"):
        places(tmp_path, (tmp_path / "gone").as_uri())
    with pytest.raises(ConfigError, match="no file system is known for it"):
        places(tmp_path, "nothing://bucket/x")
    pyarrow.parquet.write_table(pa.table({"file": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="expected a column 'image'"):
        places(tmp_path, tmp_path / "t.parquet")
    (tmp_path / "u.parquet").write_text("no table", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        places(tmp_path, tmp_path / "u.parquet")
    assert not (tmp_path / "images.jsonl").exists()
