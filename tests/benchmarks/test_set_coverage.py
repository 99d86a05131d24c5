"""The table of coverage is that of the figures, which are complete; a row counts what it says."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "confidence.md"


def test_the_page_shows_the_figures(load) -> None:  # type: ignore[no-untyped-def]
    script = load("set_coverage")
    record = json.loads(script.RESULT.read_text(encoding="utf-8"))
    done = [(run["data"], run["method"], run["seed"], run["how"] == "validation") for run in record["runs"]]
    own = list(product((*script.DATA, "clothing"), script.METHODS))
    mixed = sorted({(data, method) for data, method, *_ in done if data.endswith(", mixed")})
    assert mixed
    expected = [(*pair, *more) for pair in (*own, *mixed) for more in product(script.SEEDS, (True, False))]
    assert sorted(done) == sorted(expected)
    page = PAGE.read_text(encoding="utf-8").splitlines()  # mixed rows have a table of their own
    assert [row for row in script.table(record["runs"]).splitlines() if row not in page] == []


def test_a_row_is_the_mean_of_the_seeds(load) -> None:  # type: ignore[no-untyped-def]
    script = load("set_coverage")
    runs = [
        {"data": "d", "method": "gda", "how": "folds", "n": 9, "seed": s, "covered": c, "size": 2.0}
        for s, c in ((1, 0.8), (2, 1.0))
    ]
    expected = "| d | gda | training images, CV+ | 9 | 90.0% | 80 to 100% | 2.00 | |  |"
    assert script.table(runs).splitlines()[2] == expected


def test_what_is_counted(load) -> None:  # type: ignore[no-untyped-def]
    sets = np.array([[True, False], [True, True], [False, False], [False, True]])
    assert load("set_coverage").counted(sets, np.array([0, 1, 0, 0])) == {"covered": 0.5, "size": 1.0}
