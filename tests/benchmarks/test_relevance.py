"""The table of heat maps is that of the figures, and value projections are better than chance in each column."""

from __future__ import annotations

import json
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "confidence.md"


def test_the_page_shows_the_figures(load) -> None:  # type: ignore[no-untyped-def]
    script = load("relevance")
    runs = json.loads(script.RESULT.read_text(encoding="utf-8"))["runs"]
    assert f"\n{script.table(runs)}\n" in PAGE.read_text(encoding="utf-8")
    for run in runs:
        for other in ("last layer alone", "rollout", "random"):
            assert run["value projections"]["deletion"] < run[other]["deletion"]
            assert run["value projections"]["insertion"] > run[other]["insertion"]
