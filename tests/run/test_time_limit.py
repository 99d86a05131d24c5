"""Runs with a time limit: what is cut, where it is said, and how such a run goes on."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from runs import ALIKE, Log, names, read, settings

from blocklora import FewShotClassifier
from blocklora.core.errors import ConfigError, RunError
from blocklora.run.fit import fit_run

LOOP = import_module("blocklora.training.loop")


class Killed(Exception):
    """What a test stops a run with."""


class Kill(Log):
    """Stops training at once."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """Raise."""
        raise Killed


@pytest.fixture
def hundred_seconds_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are said to take 100 s each."""
    monkeypatch.setattr(LOOP, "seconds_a_step", lambda *_: 100.0)


def test_a_limit_that_leaves_time_for_all_changes_nothing(
    run: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    out, metrics = fit_run(str(photos), tmp_path / "run", **settings(clip_folder, time_limit="2h"))
    for name in ("predictions.csv", *ALIKE):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    choice = metrics.choices["steps"]
    assert (choice.value, choice.by) == (4, "fixed")
    assert choice.reason == "as without the time limit of 2 hours, which leaves time for all"
    assert not any("time limit" in note for note in metrics.notes)
    assert read(out / "config.json")["time_limit"] == 7200.0
    assert "time_limit" not in read(run / "config.json")


@pytest.mark.usefixtures("hundred_seconds_a_step")
def test_a_run_that_is_cut_and_killed_goes_on_with_the_same_number(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = settings(clip_folder, iterations=50, time_limit="10m")
    monkeypatch.setattr(
        "blocklora.run.fit.free_folder", lambda out: None
    )  # as if there had been no time for it
    monkeypatch.setattr("blocklora.training.checkpoint.Checkpoint.remove", lambda self: None)
    with pytest.raises(Killed):
        fit_run(str(photos), tmp_path / "run", progress=Kill(), **arguments)
    assert "checkpoint.safetensors" not in names(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"was started with time_limit = 600\.0, not None"):
        fit_run(str(photos), tmp_path / "run", resume=True, **arguments | {"time_limit": None})
    out, metrics = fit_run(str(photos), tmp_path / "run", resume=True, **arguments)
    five, _ = fit_run(str(photos), tmp_path / "five", **settings(clip_folder, iterations=5))
    for name in ("predictions.csv", *ALIKE):
        assert (out / name).read_bytes() == (five / name).read_bytes()
    assert metrics.choices["steps"].reason == "time limit of 10 minutes; 50 without it"
    assert "the time limit of 10 minutes cut steps from 50 to 5" in metrics.notes
    assert "cut steps from 50 to 5" in (out / "report.html").read_text(encoding="utf-8")
    assert names(out) == names(five)


@pytest.mark.usefixtures("hundred_seconds_a_step")
def test_too_short_a_limit_leaves_the_folder_free(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"time limit 90 s: too short for one step, which takes 1\.67 minutes"
    ):
        fit_run(str(photos), tmp_path / "run", **settings(clip_folder, time_limit=90))
    assert not (tmp_path / "run").exists() or names(tmp_path / "run") == []


def test_a_limit_that_was_passed_is_said(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    arguments = settings(clip_folder, method="zero-shot", time_limit="1h")
    _, metrics = fit_run(str(photos), tmp_path / "run", began=time.monotonic() - 7200, **arguments)
    assert any(
        note.startswith("the time limit of 60 minutes was passed: the run took") for note in metrics.notes
    )


def test_what_is_expected_is_told_before_training(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    told: list[float] = []
    for method, more in (("block-lora", {}), ("layer-norm", {}), ("tip-adapter", {})):
        log = Log()
        arguments = settings(clip_folder, method=method, **more)
        fit_run(
            str(photos),
            tmp_path / method,
            progress=log,
            on_expected=lambda seconds, log=log: told.append(seconds if not log.steps else -1.0),
            **arguments,
        )
    assert len(told) == 3
    assert all(0 < seconds < 600 for seconds in told)


def test_the_estimator_takes_a_limit(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    images = [np.full((8, 8, 3), 40 * value, dtype=np.uint8) for value in range(6)]
    labels = ["dark"] * 3 + ["light"] * 3
    monkeypatch.setattr(LOOP, "seconds_a_step", lambda *_: 100.0)
    classifier = FewShotClassifier(model=clip_folder, device="cpu", iterations=50, time_limit="10m")
    assert classifier.get_params()["time_limit"] == "10m"
    classifier.fit(images, labels)
    assert "the time limit of 10 minutes cut steps from 50 to 5" in classifier.notes_
    with pytest.raises(ConfigError, match="time limit 'soon': expected"):
        FewShotClassifier(time_limit="soon")
