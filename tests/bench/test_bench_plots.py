"""Drawings hold what they are about, the same bytes each time, and need no colour to be read."""

from __future__ import annotations

import builtins
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from blocklora.bench import plots
from blocklora.bench.plots import draw_all
from blocklora.bench.results import collect
from blocklora.core.errors import ConfigError

from .conftest import make_records, plausible

GRID: dict[str, Any] = {
    "models": ["tiny"], "data": ["digits", "twemoji"], "shots": [1, 4], "methods": ["zero-shot", "lora", "block"],
    "seeds": [1, 2],
}  # fmt: skip


def test_drawings_are_whole_and_the_same_each_time() -> None:
    results = collect(*make_records(plausible, **GRID))
    drawn = draw_all(results)
    assert list(drawn) == ["Accuracy against shots, tiny", "Accuracy against cost, tiny", "Mean ranks, tiny"]
    for caption, kinds in drawn.items():
        root = ET.fromstring(kinds["svg"])
        words = " ".join(root.itertext())
        for method in GRID["methods"]:
            assert method in words, caption
        assert kinds["pdf"].startswith(b"%PDF")
        assert kinds["png"].startswith(b"\x89PNG")
    for data in ("mean over data sets", *GRID["data"]):
        assert data in drawn["Accuracy against shots, tiny"]["svg"].decode()
    again = draw_all(results)
    assert [kinds["svg"] for kinds in again.values()] == [kinds["svg"] for kinds in drawn.values()]
    assert not re.search(r"\d{4}-\d\d-\d\dT", drawn["Mean ranks, tiny"]["svg"].decode())


def test_every_method_has_a_look_of_its_own_even_in_grey() -> None:
    looks = [plots._style(place) for place in range(28)]
    assert len({(s["marker"], s["linestyle"]) for s in looks}) == 28
    assert len({s["color"] for s in looks}) == 7


def test_what_there_is_too_little_for_is_left_out() -> None:
    one = collect(*make_records(plausible, **GRID | {"data": ["digits"], "shots": [4]}))
    assert list(draw_all(one)) == ["Accuracy against cost, tiny"]
    plan, _ = make_records(plausible, **GRID)
    assert draw_all(collect(plan, {})) == {}


def test_without_matplotlib_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'blocklora\[bench\]', or add --no-plots"):
        draw_all(collect([], {}))
