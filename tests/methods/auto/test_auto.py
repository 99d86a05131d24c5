"""auto from one end to the other, on a task of coloured images and a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_task import make_job, make_task

from blocklora.clip import Clip
from blocklora.core.deadline import Deadline
from blocklora.methods import FitResult, Job, Prepared, fit_classifier, fit_config
from blocklora.methods.auto import auto, plan
from blocklora.methods.auto.auto import AutoSettings
from blocklora.methods.auto.plan import AutoPlan
from blocklora.training import Checkpoint

SHORT = AutoPlan(
    frozen=("zero-shot", "gda", "proker"),
    frozen_seconds=1e9,
    adapters=(
        {"lr": 1e-2, "towers": "both", "layers": "all"},
        {"lr": 1e-3, "towers": "vision", "layers": "all"},
    ),
    steps=2,
    left_out={"lp++": "a test has no time"},
)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that needs no clock."""
    monkeypatch.setattr(plan, "_measured", lambda *_: None)
    monkeypatch.setattr(plan, "decide", lambda *_: SHORT)


@pytest.fixture
def task_job(loaded_clip: Clip) -> Job:
    return make_job(make_task(loaded_clip, shots=4), loaded_clip, method="auto", deadline=Deadline(1e6))


def fitted(job: Job) -> FitResult:
    with job.compute.training():
        return auto.fit(job, AutoSettings())


def answers(result: FitResult, job: Job) -> np.ndarray:
    from blocklora.classifier import encode

    images = [(example.image, example.source) for example in job.task.train]
    return result.classifier.probabilities(encode(result.classifier, images, job.compute).features)


@pytest.mark.usefixtures("planned")
def test_everything_that_was_tried_is_told(task_job: Job) -> None:
    said: list[str] = []
    result = fitted(replace(task_job, on_part=said.append))
    names = [candidate.name for candidate in result.candidates]
    assert names == ["zero-shot", "gda", "proker", "block-lora", "block-lora", "lp++"]
    judged = [candidate for candidate in result.candidates if candidate.n_images]
    assert [candidate.n_images for candidate in judged[:3]] == [12, 12, 12]
    assert any(candidate.kept for candidate in judged)
    assert all(candidate.why for candidate in result.candidates)
    assert any("halving" in candidate.why for candidate in judged[3:])
    assert result.choices["kept"].by == "validation"
    assert said[0] == "zero-shot (1 of 3)"
    assert said[-1].endswith("on all training images")


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("n_val", [0, 2])
def test_the_temperature_comes_from_held_out_images(loaded_clip: Clip, n_val: int) -> None:
    task = make_task(loaded_clip, shots=4, n_val=n_val)
    config = fit_config(model=loaded_clip.model_id, method="auto", device="cpu")
    found = fit_classifier(Prepared(loaded_clip, task, (), ()), config)
    choice = found.choices["temperature"]
    assert (choice.by, choice.n_images) == ("validation", 12 + 3 * n_val)
    assert ("validation" in choice.reason) == bool(n_val)
    assert found.seconds >= sum(candidate.seconds for candidate in found.result.candidates)


class _KilledError(BaseException):
    """What a killed process does not do: go on."""


def kill_at(number: int) -> Callable[[str], None]:
    """Return a callback that stops at its n-th call."""
    calls = []

    def on_part(name: str) -> None:
        calls.append(name)
        if len(calls) == number:
            raise _KilledError

    return on_part


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("stop_at", [2, 6])
def test_a_run_that_was_killed_goes_on_with_what_is_missing_and_ends_the_same(
    task_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    expected = fitted(task_job)
    job = replace(task_job, checkpoint=Checkpoint(tmp_path / "checkpoint.safetensors", "this run"))
    with pytest.raises(_KilledError):
        fitted(replace(job, on_part=kill_at(stop_at)))
    kept = {path.name for path in tmp_path.glob("*held-out*")}
    assert len(kept) == min(stop_at - 1, 5)
    monkeypatch.setattr(plan, "decide", lambda *_: pytest.fail("the plan is that of the first start"))
    result = fitted(job)
    np.testing.assert_array_equal(answers(result, job), answers(expected, job))
    assert [c.name for c in result.candidates if c.kept] == [c.name for c in expected.candidates if c.kept]
    assert [c.log_loss for c in result.candidates] == [c.log_loss for c in expected.candidates]
    assert job.checkpoint
    job.checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("planned")
def test_with_the_time_over_only_the_first_is_judged(task_job: Job) -> None:
    result = fitted(replace(task_job, deadline=Deadline(1e-9)))
    assert [c.name for c in result.candidates if c.kept]
    late = [c for c in result.candidates if c.name == "block-lora"]
    assert all("over" in candidate.why and not candidate.kept for candidate in late)


def test_the_clock_is_asked_for_a_plan(task_job: Job) -> None:
    result = fitted(replace(task_job, deadline=Deadline(2.0)))
    assert sum(candidate.kept for candidate in result.candidates) >= 1
    assert {c.name for c in result.candidates} >= {"zero-shot", "gda", "proker", "block-lora"}


def test_a_training_that_fails_is_passed_over(task_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    wild = replace(SHORT, adapters=({"lr": 1e30, "towers": "both", "layers": "all"},), steps=4)
    monkeypatch.setattr(plan, "_measured", lambda *_: None)
    monkeypatch.setattr(plan, "decide", lambda *_: wild)
    result = fitted(task_job)
    failed = next(candidate for candidate in result.candidates if candidate.name == "block-lora")
    assert "could not be fitted" in failed.why
    assert not failed.kept


def test_with_one_image_a_class_and_no_validation_images_proker_is_taken_and_said(loaded_clip: Clip) -> None:
    job = make_job(make_task(loaded_clip, shots=1), loaded_clip, method="auto")
    result = fitted(job)
    assert [candidate.name for candidate in result.candidates] == ["proker"]
    assert "nothing could be judged" in " ".join(result.notes)
    assert result.held_out is None


@pytest.mark.usefixtures("planned")
def test_with_one_image_a_class_validation_images_judge(loaded_clip: Clip) -> None:
    job = make_job(make_task(loaded_clip, shots=1, n_val=2), loaded_clip, method="auto")
    result = fitted(job)
    assert {c.n_images for c in result.candidates if c.name == "gda"} == {6}


def test_an_ensemble_of_templates_is_what_predicts(task_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    only = replace(SHORT, frozen=("zero-shot",), adapters=SHORT.adapters[:1])
    monkeypatch.setattr(plan, "_measured", lambda *_: None)
    monkeypatch.setattr(plan, "decide", lambda *_: only)
    two = replace(task_job.task, ensemble=(task_job.task.tokens, task_job.task.tokens.flip(0)))
    other = fitted(replace(task_job, task=two))
    plain = fitted(task_job)
    assert not torch.equal(other.classifier.zero_shot_features, plain.classifier.zero_shot_features)
