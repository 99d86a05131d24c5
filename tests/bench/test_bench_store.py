"""The results file survives what can happen to a file that is appended to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.bench.store import RUNS, Store, open_store, read_plan, read_records
from blocklora.core.errors import RunError

keys = st.lists(st.text("abc", min_size=1, max_size=3), max_size=6)


@given(keys=keys, cut=st.integers(0, 400))
def test_what_a_crash_tore_is_cut_off_and_the_rest_stays(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    store = Store(folder)
    for place, key in enumerate(keys):
        store.append({"key": key, "place": place, "text": "ä\nö"})
    path = folder / RUNS
    whole = path.read_bytes() if keys else b""
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    n_whole = path.read_bytes().count(b"\n")
    expected = {key: place for place, key in enumerate(keys[:n_whole])}
    assert {key: record["place"] for key, record in read_records(folder).items()} == expected
    again = Store(folder)
    again.append({"key": "new", "place": -1})
    assert {key: record["place"] for key, record in read_records(folder).items()} == expected | {"new": -1}
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / RUNS).write_bytes(b'{"key": "a"}\n{"key": \n{"key": "b"}\n')
    with pytest.raises(RunError, match=r"runs\.jsonl: line 2 is damaged; delete it"):
        read_records(tmp_path)


def test_one_bench_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    with (
        open_store(out) as store,
        pytest.raises(RunError, match="another bench is at work there"),
        open_store(out),
    ):
        pass
    with open_store(out) as again:
        again.write_plan([{"key": "a"}])
    assert read_plan(out) == [{"key": "a"}]
    assert store.records == {}


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="not empty and holds no results"), open_store(tmp_path):
        pass
    with pytest.raises(RunError, match="this is a file"), open_store(tmp_path / "photo.jpg"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(RunError, match=r"runs\.jsonl: cannot be read .*blocklora bench"):
        read_records(tmp_path)
    with pytest.raises(RunError, match=r"plan\.json: cannot be read .*blocklora bench"):
        read_plan(tmp_path)
