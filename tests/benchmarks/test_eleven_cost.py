"""The table of what the grid of eleven data sets costs is the planner's."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_docs_show_what_the_planner_says(load) -> None:  # type: ignore[no-untyped-def]
    assert load("eleven_cost").table() in (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")


def test_so_does_the_page_on_scaling(load) -> None:  # type: ignore[no-untyped-def]
    assert load("eleven_cost").literature() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
