"""The results file survives what can happen to a file that is appended to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.bench.records import Machine, PlanEntry, RunFailure, RunRecord
from blocklora.bench.store import RUNS, ResultsFolder, open_results, read_plan, read_records
from blocklora.core.errors import RunError

RESULTS = Path(__file__).parents[2] / "results" / "tiny"


def record(key: str, shots: int) -> RunRecord:
    failure = RunFailure("ä\nö", "", "2026-01-01T00:00:00+00:00", 1.0)
    machine = Machine("Linux", "x86_64", 2, 2**34, ("gpu",), 2, 1)
    return RunRecord(PlanEntry(key, "digits", "tiny", "lora", shots, 1), 2, failure, {}, machine, {})


def test_records_that_stand_in_a_file_are_read_and_written_unchanged() -> None:
    lines = (RESULTS / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        content = json.loads(line)
        assert RunRecord.from_json(content).to_json() == content
    assert read_records(RESULTS).keys() == {json.loads(line)["key"] for line in lines}
    found = record("a", 4)
    assert RunRecord.from_json(json.loads(json.dumps(found.to_json()))) == found


keys = st.lists(st.text("abc", min_size=1, max_size=3), max_size=6)


@given(keys=keys, cut=st.integers(0, 400))
def test_what_a_crash_tore_is_cut_off_and_the_rest_stays(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    store = ResultsFolder(folder)
    for place, key in enumerate(keys):
        store.append(record(key, place))
    path = folder / RUNS
    whole = path.read_bytes() if keys else b""
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    n_whole = path.read_bytes().count(b"\n")
    expected = {key: place for place, key in enumerate(keys[:n_whole])}
    assert {key: found.entry.shots for key, found in read_records(folder).items()} == expected
    again = ResultsFolder(folder)
    again.append(record("new", -1))
    assert {key: found.entry.shots for key, found in read_records(folder).items()} == expected | {"new": -1}
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    whole = json.dumps(record("a", 1).to_json())
    for bad in ('{"key": ', "[]", "3", '"text"', "null", whole.replace('"machine"', '"machines"')):
        (tmp_path / RUNS).write_text(f"{whole}\n{bad}\n{whole}\n", encoding="utf-8")
        with pytest.raises(RunError, match=r"runs\.jsonl: line 2 is damaged; delete it"):
            read_records(tmp_path)
    for bad in ("{}", "[3]", '[{"key": "a"}]'):
        (tmp_path / "plan.json").write_text(bad, encoding="utf-8")
        if bad != "{}":
            with pytest.raises(RunError, match=r"plan\.json: cannot be read .*blocklora bench"):
                read_plan(tmp_path)


def test_one_bench_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    with (
        open_results(out) as store,
        pytest.raises(RunError, match="another bench is at work there"),
        open_results(out),
    ):
        pass
    with open_results(out) as again:
        again.write_plan([record("a", 1).entry])
    assert read_plan(out) == [record("a", 1).entry]
    assert store.records == {}


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="not empty and holds no results"), open_results(tmp_path):
        pass
    with pytest.raises(RunError, match="this is a file"), open_results(tmp_path / "photo.jpg"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(RunError, match=r"runs\.jsonl: cannot be read .*blocklora bench"):
        read_records(tmp_path)
    with pytest.raises(RunError, match=r"plan\.json: cannot be read .*blocklora bench"):
        read_plan(tmp_path)
