"""A journal holds whole batches: what a crash left behind the last newline is as if it had never been."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocklora.core.errors import RunError
from blocklora.run.table.columns import Row
from blocklora.run.table.journal import Journal

BATCHES: list[list[Row]] = [
    [{"image": "a", "moved_to": "x/a"}, {"image": "\udce9\n", "moved_to": None}],
    [{"image": "c" * 200, "moved_to": "x/c"}],
    [{"image": "d", "moved_to": None}],
]


def filled(path: Path) -> list[int]:
    """Write all batches and an amendment; return where each line ends."""
    journal, ends = Journal(path, "moved_to"), [0]
    for place, batch in enumerate(BATCHES):
        journal.append([dict(row) for row in batch])
        ends.append(path.stat().st_size)
        if place == 1:
            journal.amend(0, "x/c-2")
            ends.append(path.stat().st_size)
    return ends


def test_rows_come_back_as_amended(tmp_path: Path) -> None:
    filled(path := tmp_path / "journal.jsonl")
    journal = Journal(path, "moved_to")
    assert journal.n_rows == 4
    assert journal.last == BATCHES[2]
    found = list(journal.rows())
    assert [row["image"] for row in found] == ["a", "\udce9\n", "c" * 200, "d"]
    assert [row["moved_to"] for row in found] == ["x/a", None, "x/c-2", None]
    assert Journal(tmp_path / "new", None).last == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), rubbish=st.binary(max_size=20).filter(lambda found: b"\n" not in found))
def test_cut_at_any_byte_whole_batches_are_left(tmp_path: Path, share: float, rubbish: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    ends = filled(path)
    cut = int(share * ends[-1])
    path.write_bytes(path.read_bytes()[:cut] + rubbish * (cut not in ends))
    whole = max(end for end in ends if end <= cut)
    journal = Journal(path, "moved_to")
    assert path.stat().st_size == whole
    assert journal.n_rows == {0: 0, 1: 2, 2: 3, 3: 3, 4: 4}[ends.index(whole)]
    journal.append(BATCHES[2])
    assert Journal(path, "moved_to").last == BATCHES[2]


def test_a_long_torn_line_is_cut(tmp_path: Path) -> None:
    ends = filled(path := tmp_path / "journal.jsonl")
    with open(path, "ab") as stream:
        stream.write(b'{"rows": [' + b" " * 200_000)
    assert Journal(path, "moved_to").n_rows == 4
    assert path.stat().st_size == ends[-1]


@pytest.mark.parametrize("line", [b"no json", b"[]", b'{"place": 9, "moved_to": "x"}', b"3"])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    filled(path := tmp_path / "journal.jsonl")
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:1], line, *lines[1:]]) + b"\n")
    with pytest.raises(RunError, match="line 2 is damaged; delete the folder"):
        Journal(path, "moved_to")
