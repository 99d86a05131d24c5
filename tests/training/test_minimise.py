from __future__ import annotations

import logging
import math
import os
import random
import signal
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.core.schedules import step_cosine
from blocklora.training import Checkpoint
from blocklora.training._saving import Saver
from blocklora.training.minimise import Curve, minimise

CPU = torch.device("cpu")
module = import_module("blocklora.training.minimise")  # the package exports a function of that name


class Points:
    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([float(step % 3), 1.0]), torch.tensor([2.0])


def run(
    weight: torch.nn.Parameter,
    average: torch.Tensor,
    *,
    checkpoint: Checkpoint | None = None,
    stop_at: int = 99,
    steps: int = 8,
) -> Curve:
    compute = Compute(CPU, "fp32")

    def gradients(step: int, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = ((weight * inputs).sum() - labels).square().sum()
        compute.backward(loss)
        return loss

    def after_step(step: int) -> None:
        average.add_(weight.detach() / steps)

    def on_step(step: int, total: int, loss: float, lr: float) -> None:
        assert total == steps
        if step == stop_at:
            raise KeyboardInterrupt

    return minimise(
        gradients,
        torch.optim.SGD([weight], lr=0.05, momentum=0.9),
        step_cosine(steps),
        Points(),
        compute,
        steps=steps,
        state={"weight": weight, "average": average},
        checkpoint=checkpoint,
        on_step=on_step,
        after_step=after_step,
    )


def fresh() -> tuple[torch.nn.Parameter, torch.Tensor]:
    return torch.nn.Parameter(torch.tensor([0.5, -0.5])), torch.zeros(2)


def test_it_is_sgd_on_the_loss() -> None:
    weight, average = fresh()
    curve = run(weight, average)
    w, v, mean, losses = [0.5, -0.5], [0.0, 0.0], [0.0, 0.0], []
    for step in range(8):
        x = [float(step % 3), 1.0]
        error = sum(a * b for a, b in zip(w, x, strict=True)) - 2.0
        losses.append(error**2)
        lr = 0.05 * (1 + math.cos(math.pi * step / 8)) / 2
        v = [0.9 * vi + 2 * error * xi for vi, xi in zip(v, x, strict=True)]
        w = [wi - lr * vi for wi, vi in zip(w, v, strict=True)]
        mean = [m + wi / 8 for m, wi in zip(mean, w, strict=True)]
    assert weight.tolist() == pytest.approx(w, rel=1e-5)
    assert average.tolist() == pytest.approx(mean, rel=1e-5)
    assert curve.losses.tolist() == pytest.approx(losses, rel=1e-4)
    assert [row["step"] for row in curve.history()] == list(range(1, 9))
    assert curve.history(4)[1] == {
        "step": 4,
        "loss": pytest.approx((losses[2] + losses[3]) / 2, rel=1e-4),
        "lr": pytest.approx(0.05 * (1 + math.cos(math.pi * 2 / 8)) / 2),
    }


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole_average = fresh()
    curve = run(whole, whole_average)
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SHOW_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "state", "this run")
    with pytest.raises(KeyboardInterrupt):
        run(*fresh(), checkpoint=checkpoint, stop_at=5)
    weight, average = fresh()
    resumed = run(weight, average, checkpoint=checkpoint)
    assert torch.equal(weight, whole)
    assert torch.equal(average, whole_average)
    assert torch.equal(resumed.losses, curve.losses)
    assert torch.equal(resumed.lrs, curve.lrs)
    with pytest.raises(RunError, match="made with other settings"):
        run(*fresh(), checkpoint=Checkpoint(tmp_path / "state", "another run"))


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    weight = torch.nn.Parameter(torch.tensor([math.nan, 0.0]))
    with pytest.raises(ConfigError, match="the loss became nan at step 1: lower the learning rate"):
        run(weight, torch.zeros(2))


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.autocast("cpu", dtype=torch.bfloat16)])
def test_the_callers_context_makes_no_difference(mode: Callable[[], Any]) -> None:
    plain, average = fresh()
    curve = run(plain, average)
    weight, average = fresh()
    with mode():
        inside = run(weight, average)
    assert torch.equal(weight, plain)
    assert torch.equal(inside.losses, curve.losses)


def test_inference_mode_is_refused() -> None:
    with (
        torch.inference_mode(),
        pytest.raises(ConfigError, match=r"training inside torch\.inference_mode\(\) is impossible"),
    ):
        run(*fresh())


def callers_state() -> list[object]:
    """What a run must leave as it was."""
    return [
        torch.get_num_threads(),
        random.getstate(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        list(warnings.filters),
        signal.getsignal(signal.SIGINT),
        logging.getLogger().level,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.allow_tf32,
        dict(os.environ),
    ]


def test_the_callers_state_is_left_alone() -> None:
    before = callers_state()
    run(*fresh())
    assert callers_state() == before
    with pytest.raises(KeyboardInterrupt):
        run(*fresh(), stop_at=1)
    assert callers_state() == before


def test_a_handler_of_another_language_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot put back a handler that was not set from Python, so none is set."""
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    monkeypatch.setattr(signal, "signal", None)  # is not called
    run(*fresh())


def test_saving_takes_little_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second and a save ten, every 20 s: after each save 200 s pass without one."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "Saver", partial(Saver, clock=lambda: clock[0]))
    saved: list[tuple[int, float]] = []

    def save(self: Checkpoint, step: int, seconds: float, *_: Any) -> None:
        saved.append((step, seconds))
        clock[0] += 10

    def tick(self: Points, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        clock[0] = max(clock[0], step + 1.0 + 10 * len(saved))
        return torch.tensor([0.0, 0.0]), torch.tensor([0.0])

    monkeypatch.setattr(Checkpoint, "save", save)
    monkeypatch.setattr(Points, "batch", tick)
    monkeypatch.setattr(module, "read_ahead", lambda work, items, cores: (work(item) for item in items))
    curve = run(*fresh(), checkpoint=Checkpoint(tmp_path / "state", "run"), steps=500, stop_at=-1)
    assert [step for step, _ in saved] == [20, 220, 420, 500]
    assert curve.seconds == 500 + 4 * 10


def curve_of(losses: list[float]) -> Curve:
    return Curve(torch.tensor(losses, dtype=torch.float64), torch.zeros(len(losses)), 0.0)


@pytest.mark.parametrize(
    ("losses", "trend"),
    [
        ([2.0] * 100, "flat"),
        ([2.0 - 0.01 * step for step in range(100)], "fell"),
        ([2.30, 2.31] * 40 + [2.29, 2.28] * 10, "flat"),  # by less than 2%
        ([1.0] * 50 + [1.05] * 50, "flat"),
        ([1.0] * 50 + [1.2] * 50, "rose"),
        ([0.009] * 20, "fell"),  # there was nothing left to learn
        ([0.001] * 10 + [0.01] * 10, "fell"),
        ([0.0] * 20, "fell"),
        ([3.0, 1.0] * 3, None),  # too few steps
        ([3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0], "fell"),
        ([], None),
    ],
)
def test_the_trend_of_a_loss(losses: list[float], trend: str | None) -> None:
    assert curve_of(losses).trend() == trend


@given(st.lists(st.floats(1e-3, 1e3), min_size=8, max_size=60), st.floats(0.1, 10))
def test_the_trend_is_that_of_the_quarters(losses: list[float], scale: float) -> None:
    quarter = len(losses) // 4
    first, last = sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter
    assume(last > 0.02)
    assume(min(abs(last / first - 0.98), abs(last / first - 1.1)) > 1e-6)
    wanted = "fell" if last / first < 0.98 else "rose" if last / first > 1.1 else "flat"
    assert curve_of(losses).trend() == wanted
