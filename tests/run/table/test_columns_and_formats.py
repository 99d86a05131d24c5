"""A row is a function of an answer, and the same in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet
import pytest

from blocklora.core.errors import ConfigError
from blocklora.data import Unreadable
from blocklora.run.predict import Asked, Prediction
from blocklora.run.table.columns import Columns
from blocklora.run.table.formats import check_format, write_rows

CAT = Prediction('a,"1"\n.jpg', [("cat", 0.625), ("dög", 0.25)])


def test_rows() -> None:
    columns = Columns(Asked(top_k=2), 9, moved="moved_to")
    assert list(columns.kinds) == [
        "image",
        "label",
        "probability",
        "label_2",
        "probability_2",
        "reason",
        "moved_to",
    ]
    assert columns.row(CAT) == {
        "image": CAT.image, "label": "cat", "probability": 0.625, "label_2": "dög", "probability_2": 0.25,
        "reason": None, "moved_to": None,
    }  # fmt: skip
    bad = Columns(Asked(), 1).row(Unreadable("b.jpg", "b.jpg: no\nimage"))
    assert bad == {"image": "b.jpg", "label": None, "probability": None, "reason": "b.jpg: no\\nimage"}


@pytest.mark.parametrize(("below", "label"), [(0.0, "cat"), (0.625, "cat"), (0.63, None), (1.0, None)])
def test_abstaining(below: float, label: str | None) -> None:
    row = Columns(Asked(top_k=1), 9, abstain_below=below).row(CAT)
    assert (row["label"], row["probability"]) == (label, 0.625)
    assert row["reason"] == (None if label else f"cat is below {below:g}")


def test_every_format_holds_the_same(tmp_path: Path) -> None:
    columns = Columns(Asked(top_k=2), 9)
    rows = [columns.row(CAT), columns.row(Unreadable("b.jpg", "cannot be read"))] * 5000
    for ending in (".csv", ".jsonl", ".parquet"):
        write_rows(tmp_path / f"x{ending}", columns.kinds, iter(rows))
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist() == rows
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert found == [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.jsonl", "x.parquet"]


def test_a_table_without_a_text_keeps_its_types(tmp_path: Path) -> None:
    columns = Columns(Asked(top_k=1), 9)
    write_rows(tmp_path / "x.parquet", columns.kinds, [columns.row(CAT)])
    schema = pyarrow.parquet.read_schema(tmp_path / "x.parquet")
    assert [str(kind) for kind in schema.types] == ["string", "string", "double", "string"]


@pytest.mark.parametrize("name", ["x", "x.txt", "x.csv.gz"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.csv, \.jsonl, \.parquet"):
        check_format(Path(name))
