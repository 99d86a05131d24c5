"""What processes tell each other, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import rank_work
import torch
from runs import read

from blocklora.core.errors import ConfigError
from blocklora.core.ranks import ALONE, joined_ranks


def test_three_processes_tell_each_other(tmp_path: Path) -> None:
    assert rank_work.processes("messages", 3, str(tmp_path)) == [0, 0, 0]
    first, *others = [read(tmp_path / f"{rank}.json") for rank in range(3)]
    assert first == {
        "told": {"by": 0},
        "collected": [["", 0], ["é", 1], ["éé", 2]],
        "gathered": [[0, 1, 2], [0, 1, 2], [3, 4, 5]],
        "any": [True, False],
        "most": [1, 2],
        "sum": [3, 3],
        "stopped": "ConfigError",
    }
    assert others == [first | {"stopped": "RankStoppedError"}] * 2


def test_one_process_exchanges_nothing() -> None:
    rows = torch.arange(4.0)
    assert ALONE.gather(rows) is rows
    assert ALONE.sum(rows) is rows
    assert ALONE.most(rows) is rows
    assert ALONE.collect({"a": 1}) == [{"a": 1}]
    assert (ALONE.any(True), ALONE.any(False), ALONE.first) == (True, False, True)
    assert ALONE.on_first(lambda: 7) == 7


def test_without_a_launcher_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks("cpu") as ranks:
        assert ranks is ALONE


def test_a_launcher_that_does_not_say_which_is_which_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"2 processes were started, but .RANK. is missing.*torchrun"):
        with joined_ranks("cpu"):
            pass


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE 'two': expected a number of processes"):
        with joined_ranks("cpu"):
            pass
