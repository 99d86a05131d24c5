"""The table of auto beside other methods is that of the figures, which are complete."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "auto.md"


def test_the_page_shows_the_figures(load) -> None:  # type: ignore[no-untyped-def]
    script = load("auto")
    runs = json.loads(script.RESULT.read_text(encoding="utf-8"))["runs"]
    done = [(run["data"], run["method"], run["shots"], run["seed"]) for run in runs]
    data, methods = (*script.DATA, "clothing"), (script.AUTO, *script.METHODS)
    assert sorted(done) == sorted(product(data, methods, script.SHOTS, script.SEEDS))
    assert f"\n{script.table(runs)}\n" in PAGE.read_text(encoding="utf-8")
