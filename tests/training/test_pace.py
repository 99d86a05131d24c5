"""How many steps a time limit allows; how the first steps are timed, and undone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from blocklora.core.deadline import Deadline
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.core.schedules import step_cosine
from blocklora.training import Checkpoint, Steps, minimise
from blocklora.training.pace import all_steps, seconds_a_step, steps_in_time

CPU = Compute(torch.device("cpu"), "fp32")


class Points:
    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([float(step % 3), 1.0]), torch.tensor([2.0])


class Problem:
    """A least-squares problem; it counts the gradients that it was asked for."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.5]))
        self.optimizer = torch.optim.AdamW([self.weight], lr=0.05)
        self.asked: list[int] = []

    def gradients(self, step: int, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.asked.append(step)
        loss = ((self.weight * inputs).sum() - labels).square().sum()
        CPU.backward(loss)
        return loss

    def pace(self, budget: float) -> float:
        state = {"weight": self.weight}
        return seconds_a_step(self.gradients, self.optimizer, Points(), CPU, state, None, budget)

    def minimise(self, steps: int | Steps) -> torch.Tensor:
        number = steps if isinstance(steps, int) else steps.number
        curve = minimise(
            self.gradients,
            self.optimizer,
            step_cosine(number),
            Points(),
            CPU,
            steps=steps,
            state={"weight": self.weight},
        )
        assert curve.recipe_steps == (None if isinstance(steps, int) else steps.recipe)
        return curve.losses


def test_timing_takes_the_first_steps_and_undoes_them() -> None:
    timed, plain = Problem(), Problem()
    began = time.monotonic()
    seconds = timed.pace(30.0)
    assert 0 < seconds <= time.monotonic() - began
    assert timed.asked == list(range(50))
    assert torch.equal(timed.weight, plain.weight)
    assert timed.weight.grad is None
    assert timed.optimizer.state_dict() == plain.optimizer.state_dict()
    assert torch.equal(timed.minimise(Steps(8, 20)), plain.minimise(8))
    assert torch.equal(timed.weight, plain.weight)


def test_one_step_is_timed_whatever_it_takes() -> None:
    problem = Problem()
    problem.pace(0.0)
    assert problem.asked == [0]


def after(seconds: float) -> Deadline:
    """A deadline of which so many seconds are left, and 0.2% more, so that a test may take its time."""
    return Deadline(1.002 * seconds)


@pytest.mark.parametrize(
    ("left", "pace", "recipe", "whole", "number"),
    [
        (1000, 10.0, 500, 1, 95),
        (1000, 10.0, 50, 1, 50),
        (1000, 10.0, 500, 10, 90),
        (1000, 0.01, 500, 10, 500),
        (1000, 940.0, 500, 1, 1),
    ],
)
def test_as_many_steps_as_fit(left: float, pace: float, recipe: int, whole: int, number: int) -> None:
    assert steps_in_time(recipe, lambda budget: pace, after(left), whole=whole) == Steps(number, recipe)


def test_what_is_kept_back_is_not_for_steps() -> None:
    assert steps_in_time(500, lambda budget: 10.0, after(1000).reserve(500)).number == 47


@pytest.mark.parametrize(("whole", "what"), [(1, "step"), (5, "epoch")])
def test_no_time_for_a_single_step_is_an_error(whole: int, what: str) -> None:
    deadline = Deadline(60.0, began=time.monotonic() - 20).reserve(30)
    with pytest.raises(
        ConfigError, match=f"time limit 60 s: too short for one {what}, which takes .*; 20 s .* take 30 s"
    ):
        steps_in_time(100, lambda budget: 60.0 / whole, deadline, whole=whole)


def test_timing_may_take_a_small_part_of_the_time() -> None:
    asked: list[float] = []

    def pace(budget: float) -> float:
        asked.append(budget)
        return 1.0

    for left in (10, 100, 1000):
        steps_in_time(1, pace, after(left))
    assert asked == pytest.approx([2.5, 6, 40], rel=0.01)


def test_a_run_that_goes_on_keeps_its_number(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "state.safetensors", "this run")
    assert steps_in_time(500, lambda budget: 10.0, after(1000), kept) == Steps(95, 500)
    assert steps_in_time(500, lambda budget: 1.0, after(10), kept) == Steps(95, 500)
    other = Checkpoint(tmp_path / "state.safetensors", "another run")
    assert steps_in_time(500, lambda budget: 20.0, after(1000), other) == Steps(47, 500)


def test_without_a_deadline_no_step_is_timed_unless_someone_is_to_be_told() -> None:
    problem, told = Problem(), []
    assert steps_in_time(500, problem.pace, None) == all_steps(500, problem.pace) == Steps(500)
    assert problem.asked == []
    steps_in_time(500, lambda budget: 2.0, None, on_expected=told.append)
    assert told == [1000.0]
