"""The page of results shows what the committed runs say."""

from __future__ import annotations

import json
from pathlib import Path

from blocklora.bench.grid import load_grid
from blocklora.bench.report import write_tables
from blocklora.bench.results import collect
from blocklora.bench.store import read_plan, read_records

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_of_the_committed_runs(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    script = load("results_page")
    write_tables(script.RESULTS, tmp_path, plots=False)
    tables = (tmp_path / "tables.md").read_text(encoding="utf-8")
    page = script.PAGE.read_text(encoding="utf-8")
    results = collect(read_plan(script.RESULTS), read_records(script.RESULTS))
    assert (results.n_done, results.n_failed) == (results.n_planned, 0)
    assert script.differences(results) in page
    assert script.section(tables, "Mean accuracy (%) over data sets, tiny") in page
    for shots in (1, 16):
        assert script.section(tables, f"Accuracy (%), {shots} shot{'s' * (shots > 1)}, tiny") in page


def test_the_committed_runs_are_those_of_the_grid(load) -> None:  # type: ignore[no-untyped-def]
    script = load("results_page")
    runs = load_grid(ROOT / "examples" / "grids" / "tiny.toml").runs
    lines = (script.RESULTS / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == sorted(run.key for run in runs)


def test_the_twin_is_the_blocks(load) -> None:  # type: ignore[no-untyped-def]
    records = read_records(load("results_page").RESULTS).values()
    right = {
        (r.entry.method, r.entry.data, r.entry.shots, r.entry.seed): r.outcome.details["n_correct"]
        for r in records
    }
    blocks = {key[1:]: found for key, found in right.items() if key[0] == "block-lora"}
    twins = {key[1:]: found for key, found in right.items() if key[0] == "block-lora-folded"}
    assert blocks
    assert twins == blocks
