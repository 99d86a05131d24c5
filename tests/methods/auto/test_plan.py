"""What is tried within a time, by given costs."""

from __future__ import annotations

import pytest
from small_task import make_job, make_task

from blocklora.clip import Clip
from blocklora.core.deadline import Deadline
from blocklora.methods import Job
from blocklora.methods.auto.contenders import FROZEN
from blocklora.methods.auto.plan import ENOUGH_STEPS, Costs, decide, fits_of
from blocklora.methods.held_out.parts import cut


@pytest.fixture
def four_shots(loaded_clip: Clip) -> Job:
    return make_job(make_task(loaded_clip, shots=4), loaded_clip)


@pytest.mark.parametrize(("settings", "fits"), [(1, 5), (2, 6), (4, 9)])
def test_fits_of_halving_over_four_parts(settings: int, fits: int) -> None:
    assert fits_of(settings, 4) == fits


def test_with_time_everything_is_tried_and_without_only_what_costs_nothing(four_shots: Job) -> None:
    parts = cut(four_shots.task, 0)
    costs = Costs(view=1e-3, step=0.01, start=0.1)
    plan = decide(four_shots, parts, costs, Deadline(3600))
    assert plan.frozen == tuple(FROZEN)
    assert len(plan.adapters) == max(ENOUGH_STEPS)
    assert plan.left_out == {}
    short = decide(four_shots, parts, Costs(view=100.0, step=100.0), Deadline(20))
    assert short.frozen == tuple(name for name, known in FROZEN.items() if not known.passes)
    assert not short.adapters
    assert {"block-lora", "tip-adapter"} <= set(short.left_out)


def test_steps_fit_into_the_time_and_stay_below_the_recipe(four_shots: Job) -> None:
    parts = cut(four_shots.task, 0)
    costs = Costs(view=1e-3, step=0.1, start=1.0)
    for seconds in (60, 120, 600):
        plan = decide(four_shots, parts, costs, Deadline(seconds))
        spent = fits_of(len(plan.adapters), 4) * (costs.start + plan.steps * costs.step)
        assert spent <= 0.94 * seconds
        assert not plan.adapters or plan.steps >= ENOUGH_STEPS[len(plan.adapters)]
    assert decide(four_shots, parts, Costs(1e-4, 1e-4), Deadline(36000)).steps == 2000  # 500 a shot


def test_a_step_too_long_to_measure_is_no_step(four_shots: Job) -> None:
    plan = decide(four_shots, cut(four_shots.task, 0), Costs(1.0, None), Deadline(600))
    assert "far too long" in plan.left_out["block-lora"]
