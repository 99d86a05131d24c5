"""The rates of the bundled grid are those that the scan on validation images chose."""

from __future__ import annotations

import json
from pathlib import Path

from blocklora.bench.grid import load_grid


def test_the_grid_has_the_rates_that_were_chosen(load) -> None:  # type: ignore[no-untyped-def]
    script = load("tiny_settings")
    path = Path(script.__file__).parent / "results" / "tiny_settings.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    runs = load_grid(script.GRID).runs
    assert record["seed"] not in {run.seed for run in runs}
    rates = {run.method: run.resolved["lr"] for run in runs if run.method in record["chosen"]}
    assert rates == record["chosen"] == script.chosen(record["validation_accuracy"])
    assert set(rates) == {*script.RATES, *script.AS_CHOSEN}


def test_the_lower_of_equally_good_rates_is_chosen(load) -> None:  # type: ignore[no-untyped-def]
    rates = {"0.1": {"a": 0.5, "b": 0.75}, "0.01": {"a": 0.625, "b": 0.625}, "1": {"a": 0.1, "b": 0.1}}
    names = ("block-lora", "block-lora-folded", "block-lora-arms")
    assert load("tiny_settings").chosen({"block-lora": rates}) == dict.fromkeys(names, 0.01)
