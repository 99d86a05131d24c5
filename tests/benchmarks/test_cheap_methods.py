"""The table of methods that take seconds is that of the figures, which are complete."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from blocklora.classifier import FeatureStore
from blocklora.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_shows_the_figures(load) -> None:  # type: ignore[no-untyped-def]
    script = load("cheap_methods")
    record = json.loads(script.RESULT.read_text(encoding="utf-8"))
    done = [(run["method"], run["data"], run["shots"], run["seed"]) for run in record["runs"]]
    assert sorted(done) == sorted(product(script.METHODS, script.DATA, script.SHOTS, script.SEEDS))
    assert record["validation_images"] == 0
    assert set(script.METHODS) <= set(METHODS)
    assert f"\n{script.table(record['runs'])}\n" in PAGE.read_text(encoding="utf-8")


def test_a_row_is_the_mean_of_the_seeds(load, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    script = load("cheap_methods")
    monkeypatch.setattr(script, "METHODS", ("gda",))
    runs = [
        {"method": "gda", "data": data, "shots": shots, "seed": seed, "accuracy": accuracy, "seconds": shots}
        for shots, (seed, gain), (data, least) in product(
            (1, 4, 16), ((1, 0.0), (2, 0.1), (3, 0.2)), (("digits", 0.2), ("twemoji", 0.4))
        )
        for accuracy in (least + gain,)
    ]
    assert script.table(runs).splitlines()[2] == "| gda | " + "40.0 ± 10.0 | " * 3 + "16.0 |"


def test_a_fit_is_measured_without_validation_images(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    script = load("cheap_methods")
    run = script.measure("zero-shot", "clipart", 1, 1, FeatureStore(tmp_path))
    record = json.loads(script.RESULT.read_text(encoding="utf-8"))
    names = ("method", "data", "shots", "seed")
    (before,) = (r for r in record["runs"] if all(r[name] == run[name] for name in names))
    assert before["accuracy"] == pytest.approx(run["accuracy"], abs=0.01)
