from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.training import Checkpoint
from blocklora.training import minimise as module
from blocklora.training.minimise import Curve, epoch_cosine, minimise, step_cosine

CPU = torch.device("cpu")


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


def test_schedules() -> None:
    factor = step_cosine(4, last=0.1, start=2)
    assert [factor(step) for step in (0, 1, 6)] == [0.0, 0.0, 0.0]
    assert factor(2) == 1.0
    assert factor(4) == pytest.approx(0.55)
    coop = epoch_cosine(10, 3, 2e-3)
    assert [coop(step) for step in range(3)] == [1e-5 / 2e-3] * 3
    assert coop(3) == coop(5) == 1.0
    assert coop(6) == pytest.approx((1 + math.cos(math.pi / 10)) / 2)
    assert coop(29) == pytest.approx((1 + math.cos(math.pi * 8 / 10)) / 2)
