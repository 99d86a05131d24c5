"""The experiments' bookkeeping and statistics; what they train is tested elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The scripts as they import each other when one of them is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("few_shot", "adapter_accuracy", "generalization_gap", "adapter_costs")
    modules = {name: __import__(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    return modules


@pytest.fixture
def few_shot(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    module = scripts["few_shot"]
    monkeypatch.setattr(module, "Digits", lambda: type("Digits", (), {"sha256": "data"}))
    module.trained = []

    def fit(run: Any, digits: Any) -> dict[str, Any]:
        module.trained.append(run.key)
        return {"key": run.key, f"{run.measured_on}_accuracy": run.seed / 10, "seconds": 1}

    monkeypatch.setattr(module, "fit", fit)
    return module


def test_an_interrupted_list_of_runs_goes_on(few_shot: Any, tmp_path: Path) -> None:
    runs = [few_shot.Run("a", None, 1, seed, 0.1) for seed in (1, 2, 3)]
    path = tmp_path / "results" / "runs.jsonl"
    rows = few_shot.complete(runs[:2], path)
    with path.open("a") as file:
        file.write(json.dumps(rows[0] | {"key": "cut"})[:20])  # the power went out here
    rows = few_shot.complete(runs, path)
    assert few_shot.trained == [run.key for run in runs]
    assert [row["test_accuracy"] for row in rows] == [0.1, 0.2, 0.3]
    assert few_shot.finished(path) == rows
    assert few_shot.complete(runs[::-1], path) == rows[::-1]
    assert len(few_shot.trained) == 3
    (made,) = few_shot.made_with(rows)
    assert made["data_sha256"] == "data"
    assert {"git_commit", "changed_since_commit", "versions", "machine"} < made.keys()


def test_runs_differ_by_all_that_makes_them(few_shot: Any) -> None:
    run = few_shot.Run("a", None, 1, 1, 0.1)
    others = [{"name": "b"}, {"shots": 4}, {"seed": 2}, {"lr": 0.2}, {"measured_on": "val"}]
    assert len({run.key, *(run._replace(**other).key for other in others)}) == 6


def test_interval_is_students(scripts: dict[str, ModuleType]) -> None:
    values = [0.61, 0.65, 0.63, 0.70, 0.58]
    mean, half = scripts["adapter_accuracy"].interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_the_rate_is_that_of_the_best_validation_accuracy(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["adapter_accuracy"]
    accuracy = dict(zip(script.GRID, (0.2, 0.5, 0.5, 0.4, 0.1), strict=True))
    seen = []

    def complete(runs: list[Any], path: Path) -> list[dict[str, Any]]:
        seen.extend(runs)
        return [{"lr": r.lr, "val_accuracy": accuracy[r.lr], "val_loss": 1 / r.lr} for r in runs]

    monkeypatch.setattr(script, "complete", complete)
    assert script.choose_rate(script.VERA, Path("unused")) == script.GRID[2]
    assert {run.measured_on for run in seen} == {"val"}
    assert not {run.seed for run in seen} & {1, 2, 3, 4, 5}


def test_gaps_in_the_bounds_order_are_seen_as_such(scripts: dict[str, ModuleType]) -> None:
    script = scripts["generalization_gap"]
    trained = [100 + 10 * index for index in range(len(script.KINDS))]
    rising = np.add.outer((0.0, 1.0), trained)
    for gaps, rho, share in ((rising, 1, 1), (-rising, -1, 0)):
        for part in ("lora_and_blocks", "with_twin"):
            found = script.analyse(gaps, trained)[part]
            assert found["spearman"] == pytest.approx((rho, 0))
            assert found["pairs_in_order"] == share * found["pairs"]
    equal = np.tile(1.0 + np.arange(len(script.KINDS)) // 2, (2, 1))
    found = script.analyse(equal, trained)["with_twin"]
    assert 0 < found["pairs_in_order"] < found["pairs"]  # equal gaps are in no order


def test_the_twin_has_to_equal_the_blocks(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts["generalization_gap"]
    monkeypatch.setattr(script, "made_with", lambda rows: [])

    def gaps(twin: float) -> Any:
        def complete(runs: list[Any], path: Path) -> list[dict[str, Any]]:
            losses = [len(run.name) + run.seed + twin * run.name.startswith("twin") for run in runs]
            return [{"test_loss": loss, "train_loss": 0, "trained_numbers": 1} for loss in losses]

        monkeypatch.setattr(script, "complete", complete)
        return script.measure(2, Path("unused"))[0]

    with pytest.raises(SystemExit, match="twin r=2 n=2 and Block-LoRA r=2 n=2 differ"):
        gaps(0)
    monkeypatch.setattr(script.Kind, "name", property(lambda kind: f"{kind.method[:1]} {kind.r} {kind.n}"))
    found = gaps(0)
    assert found.shape == (2, len(script.KINDS))
    blocks = [index for index, kind in enumerate(script.KINDS) if kind.method == "Block-LoRA"]
    twins = [index for index, kind in enumerate(script.KINDS) if kind.method == "twin"]
    assert np.array_equal(found[:, blocks], found[:, twins])


def test_drawing_is_whole(scripts: dict[str, ModuleType]) -> None:
    import xml.etree.ElementTree as ET

    kinds = scripts["generalization_gap"].KINDS
    points = [
        {"method": k.method, "label": k.name, "trained_numbers": 9000 * k.r, "gap": (1.0, 0.2)} for k in kinds
    ]
    root = ET.fromstring(scripts["generalization_gap"].drawing(points))
    labels = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {kind.name for kind in kinds} <= set(labels)


@pytest.mark.parametrize("measured", [False, True])
def test_the_cost_table_has_a_column_for_each_number(
    scripts: dict[str, ModuleType], measured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, accuracy = scripts["adapter_costs"], scripts["adapter_accuracy"]
    costs = json.loads((script.RESULTS / "adapter_costs.json").read_text())["rows"]
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    if measured:
        runs = [
            {"name": name, "shots": shots, "test_accuracy": 0.5 + seed / 100}
            for name in accuracy.METHODS
            for shots in accuracy.SHOTS
            for seed in (1, 2, 3)
        ]
        rows = accuracy.summary(runs, dict.fromkeys(accuracy.METHODS, 0.1))
        script.write(tmp_path / "adapter_accuracy.json", {"rows": rows})
    lines = script.markdown(costs).splitlines()
    assert {line.count("|") for line in lines} == {9 if measured else 6}
    named = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert list(named) == list(script.methods())
    accuracies = "| 52.0 ± 2.5 | 52.0 ± 2.5 | 52.0 ± 2.5 |"
    with_accuracy = {name for name, line in named.items() if line.endswith(accuracies)}
    twin = "Block-LoRA (r=4, n=4), folded"
    assert with_accuracy == ({*accuracy.METHODS, twin} if measured else set())
