"""Parts of a grid work in one RESULTS folder; their lines are the whole, read together or written into one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blocklora.bench.report import write_tables
from blocklora.bench.run import run_grid
from blocklora.bench.store import open_results, read_records
from blocklora.core.errors import RunError
from blocklora.core.shards import Shard

from .conftest import failed, make_records

PARTS = [Shard(place, 3) for place in (1, 2, 3)]


def test_parts_side_by_side_are_the_whole(tmp_path: Path) -> None:
    plan, records = make_records(
        lambda *_: 0.5, models=["tiny"], data=["digits"], shots=[1, 4], methods=["a", "b"], seeds=[1, 2, 3]
    )
    whole, parts, joined = (tmp_path / name for name in ("whole", "parts", "joined"))
    with open_results(whole) as results:
        results.write_plan(plan)
        for record in records.values():
            results.append(record)
    with (
        open_results(parts, PARTS[0]) as one,
        open_results(parts, PARTS[1]) as two,
        open_results(parts, PARTS[2]) as three,
    ):
        with pytest.raises(RunError, match="another bench is at work"), open_results(parts, PARTS[1]):
            pass
        for shard, results in zip(PARTS, (one, two, three), strict=True):
            results.write_plan(plan)
            for key, record in records.items():
                if shard.has(key):
                    results.append(record)
            assert results.running.name == f"running.{shard.name}"
    assert len(list(parts.glob("runs.*.jsonl"))) == 3
    assert read_records(parts) == read_records(whole) == records
    joined.mkdir()
    lines = b"".join(path.read_bytes() for path in sorted(parts.glob("runs.*.jsonl")))
    (joined / "runs.jsonl").write_bytes(lines)
    assert read_records(joined) == records
    for folder in (whole, parts):
        write_tables(folder, folder / "tables", plots=False)
    first, second = (
        (folder / "tables" / "cells.csv").read_text(encoding="utf-8") for folder in (whole, parts)
    )
    assert first == second
    with open_results(parts, PARTS[0]) as again:  # which sees what others have done
        assert again.records == records


def test_a_failure_in_one_file_takes_nothing_from_a_finished_run_in_another(tmp_path: Path) -> None:
    _, records = make_records(
        lambda *_: 0.5, models=["tiny"], data=["x"], shots=[1], methods=["a"], seeds=[1]
    )
    (record,) = records.values()
    with open_results(tmp_path, PARTS[0]) as part:
        part.append(failed(record, "no luck"))
    assert read_records(tmp_path)[record.entry.key].status == "failed"
    with open_results(tmp_path, PARTS[2]) as part:
        part.append(record)
    assert read_records(tmp_path) == records
    with open_results(tmp_path) as whole:
        whole.append(failed(record, "no luck again"))
    assert read_records(tmp_path) == records
    with open_results(tmp_path, PARTS[2]) as part:
        part.append(replace(record, attempts=2))
    assert read_records(tmp_path)[record.entry.key].attempts == 2


def test_each_part_does_its_own_runs(tmp_path: Path, clip_folder: Path, photos: Path) -> None:
    (tmp_path / "grid.toml").write_text(
        f'models = ["{clip_folder.as_posix()}"]\nshots = [1, 2]\nseeds = [1, 2]\n'
        f'[data.shapes]\npath = "{photos.as_posix()}"\n[methods.zero-shot]\n[settings]\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    grid, out = tmp_path / "grid.toml", tmp_path / "results"
    planned = [run_grid(grid, out, workers=1, shard=Shard(place, 2)) for place in (1, 2)]
    assert sum(counts["done"] for counts in planned) == sum(counts["planned"] for counts in planned) == 4
    assert len(read_records(out)) == 4
    for more in ({}, {"shard": Shard(2, 2)}):
        assert run_grid(grid, out, **more)["done"] == 0
    assert not list(out.glob("running*"))
