"""Tables say only what whole cells say, and say what is missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from blocklora.bench.published import load_published
from blocklora.bench.report import write_tables
from blocklora.bench.results import collect
from blocklora.bench.tables import Table, make_tables
from blocklora.core.errors import RunError

from .conftest import changed, failed, make_records, plausible

ELEVEN = load_published().data
GRID: dict[str, Any] = {
    "models": ["tiny"], "data": ["digits", "twemoji", "a_b"], "shots": [1, 4], "seeds": [1, 2, 3],
    "methods": ["zero-shot", "lora", "block"],
}  # fmt: skip


def tables_of(plan: Any, records: Any) -> dict[str, Table]:
    return {table.title: table for table in make_tables(collect(plan, records), load_published())}


def row(table: Table, name: str) -> dict[str, str]:
    found = next(row for row in table.rows if row[0].text == name)
    return {column: entry.text for column, entry in zip(table.columns, found, strict=True)}


def test_means_deviations_intervals_and_ranks_are_numpys_and_scipys() -> None:
    tables = tables_of(*make_records(plausible, **GRID))
    values = {
        m: np.array([[plausible(d, 4, m, s) for s in (1, 2, 3)] for d in GRID["data"]])
        for m in GRID["methods"]
    }
    accuracy = row(tables["Accuracy (%), 4 shots, tiny"], "lora")
    lora = 100 * values["lora"]
    assert accuracy["twemoji"] == f"{lora[1].mean():.1f} ± {lora[1].std(ddof=1):.1f}"
    assert accuracy["mean"] == f"{lora.mean():.1f} ± {lora.mean(axis=0).std(ddof=1):.1f}"
    means = np.array([values[m].mean(axis=1) for m in GRID["methods"]])
    assert accuracy["mean rank"] == f"{stats.rankdata(-means, axis=0)[1].mean():.2f}"
    low, high = stats.ttest_1samp(lora[1], 0).confidence_interval(0.95)
    assert row(tables["95% intervals, 4 shots, tiny"], "lora")["twemoji"] == f"{low:.1f} to {high:.1f}"
    assert row(tables["Mean accuracy (%) over data sets, tiny"], "lora")["4 shots"] == accuracy["mean"]


def test_a_hole_is_shown_and_keeps_a_method_out_of_means_ranks_and_tests() -> None:
    plan, records = make_records(plausible, **GRID)
    del records["tiny/digits/4/lora/2"]
    records["tiny/a_b/4/lora/3"] = failed(records["tiny/a_b/4/lora/3"], "OSError: disk full")
    for seed in (1, 2, 3):
        del records[f"tiny/twemoji/4/lora/{seed}"]
    tables = tables_of(plan, records)
    accuracy = tables["Accuracy (%), 4 shots, tiny"]
    found = row(accuracy, "lora")
    assert found["digits"].endswith("(2 of 3 seeds)")
    assert found["twemoji"] == "missing"
    assert (found["mean"], found["mean rank"]) == ("–", "–")
    assert row(accuracy, "block")["mean rank"] in ("1.00", "1.33", "1.67", "2.00")  # of two
    assert "With runs missing or failed, and in no mean, rank or test: lora." in accuracy.notes
    assert row(tables["Mean accuracy (%) over data sets, tiny"], "lora")["4 shots"] == "–"
    assert row(tables["Mean accuracy (%) over data sets, tiny"], "lora")["1 shot"] != "–"
    ranks = tables["Mean ranks, tiny"]
    assert (row(ranks, "lora")["4 shots"], row(ranks, "lora")["mean of shots"]) == ("–", "–")
    assert not any("lora" in line[0].text for line in tables["Pairs of methods, tiny"].rows)
    assert "lora" not in [line[0].text for line in tables["Cost, 4 shots, tiny"].rows]
    holes = [[entry.text for entry in line] for line in tables["Failed and missing runs"].rows]
    assert ["lora", "digits", "4", "tiny", "2", "missing"] in holes
    assert ["lora", "a_b", "4", "tiny", "3", "failed: OSError: disk full"] in holes
    assert ["lora", "twemoji", "4", "tiny", "1, 2, 3", "missing"] in holes
    assert len(holes) == 3


def test_runs_of_other_grids_and_on_other_images_do_not_count() -> None:
    plan, records = make_records(plausible, **GRID)
    records["old"] = changed(records["tiny/digits/4/lora/2"], accuracy=0.0)
    stale = records["tiny/digits/1/block/1"]
    records[stale.entry.key] = changed(stale, split_sha256="other", created="2025-01-01T00:00:00+00:00")
    results = collect(plan, records)
    assert (results.n_planned, results.n_done, results.n_failed) == (54, 53, 0)
    assert not results.cells["tiny", "digits", 1, "block"].whole
    assert results.cells["tiny", "digits", 4, "lora"].whole
    assert results.notes[0].startswith("1 recorded runs belong to earlier grids")
    assert results.notes[1].startswith("1 runs were made on other images")


def bold(table: Table) -> list[tuple[str, str]]:
    return [
        (line[0].text, c) for line in table.rows for c, e in zip(table.columns, line, strict=True) if e.bold
    ]


def test_names_of_equal_settings_have_rows_and_columns_of_their_own_and_count_once() -> None:
    def accuracy(name: str, n: int, method: str, seed: int) -> float:
        return 0.5 + 0.001 * seed + 0.01 * len(name) + (0.2 if method == "block" else 0) * (1 + 0.01 * seed)

    grid = GRID | {"data": [f"d{'x' * n}" for n in range(8)], "shots": [4]}
    plan, records = make_records(accuracy, **grid)
    plain = tables_of(plan, records)
    more = [*plan]
    more += [replace(entry, method="again") for entry in plan if entry.method == "block"]
    more += [replace(entry, data="also") for entry in more if entry.data == "dx"]
    results = collect(more, records)
    assert (results.n_planned, results.n_done) == (len(plan), len(plan))
    assert results.notes == [
        f"{name} has equal settings to {other}: the same runs under two names, counted once in means over data sets, "
        "ranks and tests."
        for name, other in (("also", "dx"), ("again", "block"))
    ]
    tables = tables_of(more, records)
    found, before = (t["Accuracy (%), 4 shots, tiny"] for t in (tables, plain))
    assert row(found, "again") == row(found, "block") | {"method": "again"}
    for method in grid["methods"]:
        assert row(found, method) == row(before, method) | {"also": row(before, method)["dx"]}
    assert ("again", "mean") in bold(found)
    assert ("block", "also") in bold(found)
    assert tables["Pairs of methods, tiny"].rows == plain["Pairs of methods, tiny"].rows
    ranks, ranks_before = tables["Mean ranks, tiny"], plain["Mean ranks, tiny"]
    assert [line for line in ranks.rows if line[0].text != "again"] == ranks_before.rows
    assert row(ranks, "again")["4 shots"] == row(ranks, "block")["4 shots"]
    cost = tables["Cost, 4 shots, tiny"]
    assert row(cost, "again") == row(cost, "block") | {"method": "again"}
    del records[plan[0].key]
    assert (collect(more, records).n_planned, collect(more, records).n_done) == (len(plan), len(plan) - 1)


def test_bold_is_only_what_is_significantly_best() -> None:
    def accuracy(name: str, n: int, method: str, seed: int) -> float:
        noise = plausible(name, n, method, seed) - plausible(name, n, method, seed + 1)
        return 0.5 + 0.01 * noise + (0.2 if method == "block" and name != "d0" else 0)

    grid = GRID | {"data": [f"d{n}" for n in range(8)], "shots": [4], "seeds": [1, 2, 3, 4, 5]}
    tables = tables_of(*make_records(accuracy, **grid))
    found = bold(tables["Accuracy (%), 4 shots, tiny"])
    assert {("block", f"d{n}") for n in range(1, 8)} | {("block", "mean")} == set(found)
    few = tables_of(*make_records(accuracy, **grid | {"data": ["d1", "d2", "d3"]}))
    assert ("block", "mean") not in bold(few["Accuracy (%), 4 shots, tiny"])  # three data sets prove nothing
    assert (
        "With 3 data sets no Wilcoxon test can reach 5% (least p: 0.250)."
        in few["Pairs of methods, tiny"].notes
    )
    twins = tables_of(*make_records(lambda d, n, m, s: plausible(d, n, "same", s), **grid))
    assert bold(twins["Accuracy (%), 4 shots, tiny"]) == []
    one_seed = tables_of(*make_records(accuracy, **grid | {"seeds": [1]}))
    assert [place for place in bold(one_seed["Accuracy (%), 4 shots, tiny"]) if place[1] != "mean"] == []


def test_published_figures_stand_in_their_own_column_beside_the_same_data_only() -> None:
    model = "openai/clip-vit-base-patch16"
    grid = GRID | {
        "models": [model],
        "methods": ["clip-lora", "block"],
        "data": ELEVEN,
        "shots": [4, 5],
        "seeds": [1],
    }
    tables = tables_of(*make_records(plausible, **grid))
    found = tables["Accuracy (%), 4 shots, clip-vit-base-patch16"]
    assert row(found, "clip-lora")["published mean"] == "77.32"
    assert row(found, "block")["published mean"] == "–"
    assert "published mean" not in tables["Accuracy (%), 5 shots, clip-vit-base-patch16"].columns
    over_shots = tables["Mean accuracy (%) over data sets, clip-vit-base-patch16"]
    assert row(over_shots, "clip-svd") == {
        "method": "clip-svd", "4 shots": "–", "5 shots": "–", "published, 4 shots": "78.18",
    }  # fmt: skip
    fewer = tables_of(*make_records(plausible, **grid | {"data": ELEVEN[:10]}))
    assert not any("published" in column for table in fewer.values() for column in table.columns)
    other = tables_of(*make_records(plausible, **grid | {"models": ["openai/clip-vit-base-patch32"]}))
    assert not any("published" in column for table in other.values() for column in table.columns)


def test_costs_mark_the_pareto_front() -> None:
    best_first = {"zero-shot": 0.7, "lora": 0.6, "block": 0.8}
    tables = tables_of(*make_records(lambda d, n, m, s: best_first[m], **GRID))
    table = tables["Cost, 4 shots, tiny"]
    assert row(table, "zero-shot")["trained parameters"] == "0*"
    assert row(table, "lora")["trained parameters"] == "3"
    assert row(table, "block")["peak memory (MiB)"] == "700*"
    assert "2 CPU cores, 2 at once with 1 threads each" in table.notes[0]


def test_one_data_set_and_one_seed_are_enough_for_a_table() -> None:
    grid = GRID | {"data": ["digits"], "seeds": [1], "shots": [4], "methods": ["lora"]}
    tables = tables_of(*make_records(plausible, **grid))
    assert "±" not in row(tables["Accuracy (%), 4 shots, tiny"], "lora")["digits"]
    assert "mean" not in tables["Accuracy (%), 4 shots, tiny"].columns
    assert not any(title.startswith(("95%", "Mean ranks", "Pairs")) for title in tables)


def test_files_hold_the_same_figures(results_folder: Callable[..., Path], tmp_path: Path) -> None:
    plan, records = make_records(plausible, **GRID | {"methods": ["zero-shot", "a|b_<i>", "block"]})
    out = tmp_path / "out"
    files = write_tables(results_folder(plan, records), out, plots=False)
    assert [path.name for path in files] == [
        "tables.md",
        "tables.tex",
        "tables.html",
        "cells.csv",
        "tests.csv",
    ]
    text = {path.name: path.read_text(encoding="utf-8") for path in files}
    figure = row(tables_of(plan, records)["Accuracy (%), 4 shots, tiny"], "block")["twemoji"]
    assert f"| {figure} |" in text["tables.md"]
    assert figure.replace("±", r"$\pm$") in text["tables.tex"]
    assert f"<td>{figure}</td>" in text["tables.html"]
    assert r"a\|b\_\<i>" in text["tables.md"]
    assert "a|b_<i>" not in text["tables.html"]
    assert r"a|b\_$<$i$>$" in text["tables.tex"]
    cells = list(csv.DictReader(io.StringIO(text["cells.csv"])))
    assert len(cells) == 18
    cell = next(c for c in cells if (c["data"], c["shots"], c["method"]) == ("twemoji", "4", "block"))
    assert figure.startswith(f"{100 * float(cell['mean']):.1f}")
    tests = list(csv.DictReader(io.StringIO(text["tests.csv"])))
    assert {test["shots"] for test in tests} == {"1", "4", "mean"}
    assert len(tests) == 9


def test_an_empty_bench_is_all_missing(results_folder: Callable[..., Path], tmp_path: Path) -> None:
    plan, _ = make_records(plausible, **GRID)
    out = tmp_path / "out"
    write_tables(results_folder(plan, {}), out)
    text = (out / "tables.md").read_text(encoding="utf-8")
    assert "0 of 54 runs are done, 54 are missing." in text
    assert "missing" in text
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="this is a file; --out takes a folder"):
        write_tables(results_folder(plan, {}), tmp_path / "file")
    with pytest.raises(RunError, match=r"plan\.json: cannot be read"):
        write_tables(tmp_path / "nowhere", out)
