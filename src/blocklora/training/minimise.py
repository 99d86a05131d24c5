"""The loop of every method that trains: batches in, gradients, steps, a checkpoint.

It is told how to compute gradients and knows nothing else; ``loop.train`` is the one that knows CLIP's two towers.
Everything random of a step follows from (seed, step), so a resumed run ends with the same bits.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from blocklora.clip.features import read_ahead
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.training.checkpoint import Checkpoint

__all__ = ["Batches", "Curve", "Factor", "OnStep", "Remember", "epoch_cosine", "minimise", "step_cosine"]

_SAVE_SECONDS, _SHOW_SECONDS = 20.0, 0.2
_WARM_UP_LR = 1e-5

OnStep = Callable[[int, int, float, float], None]
"""Told a step, how many there are, its loss and its learning rate."""
Factor = Callable[[int], float]
"""The factor on a learning rate at a step, counted from 0."""


class Batches(Protocol):
    """What a step is given: ``TrainingPictures``, or batches of features."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs (B, ...) and labels (B,)."""
        ...


class Remember(Protocol):
    """What else belongs to the state of a run, as JSON-ready values."""

    def dump(self) -> dict[str, Any]:
        """Return it."""
        ...

    def load(self, values: dict[str, Any]) -> None:
        """Go back to it."""
        ...


@dataclass(frozen=True)
class Curve:
    """How a training run went.

    Attributes:
        losses: The loss of every step (steps,), float64 on the CPU.
        lrs: The largest learning rate of every step (steps,).
        seconds: Time in the loop, that before an interruption included.
    """

    losses: Tensor
    lrs: Tensor
    seconds: float

    def history(self, points: int = 200) -> list[dict[str, float]]:
        """Return up to about ``points`` rows of step, mean loss since the last row, and learning rate."""
        steps = len(self.losses)
        width = max(1, math.ceil(steps / points))
        return [
            {
                "step": min(start + width, steps),
                "loss": float(self.losses[start : start + width].mean()),
                "lr": float(self.lrs[start]),
            }
            for start in range(0, steps, width)
        ]


def step_cosine(steps: int, *, last: float = 0.0, start: int = 0) -> Factor:
    """Return half a cosine from 1 down to ``last`` over the steps from ``start`` on; 0 before and after them."""

    def factor(step: int) -> float:
        if not start <= step < start + steps:
            return 0.0
        return last + (1 - last) * (1 + math.cos(math.pi * (step - start) / steps)) / 2

    return factor


def epoch_cosine(epochs: int, steps_an_epoch: int, lr: float) -> Factor:
    """Return CoOp's schedule: one epoch at 1e-5, then half a cosine that falls once an epoch.

    Source: KaiyangZhou/Dassl.pytorch, ``ConstantWarmupScheduler`` before ``CosineAnnealingLR``. The cosine starts
    when the warm-up ends and is as long as the whole run, so it does not quite reach 0.
    """

    def factor(step: int) -> float:
        epoch = step // steps_an_epoch
        return (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2 if epoch else _WARM_UP_LR / lr

    return factor


def minimise(
    gradients: Callable[[int, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    factors: Factor | Sequence[Factor],
    batches: Batches,
    compute: Compute,
    *,
    steps: int,
    state: dict[str, Any],
    checkpoint: Checkpoint | None = None,
    save_seconds: float | None = None,
    remember: Remember | None = None,
    on_step: OnStep | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Curve:
    """Step an optimizer down the gradients of a loss.

    Args:
        gradients: Told the step, inputs and labels on the device; fills ``.grad`` and returns the loss.
        optimizer: Over the trained tensors.
        factors: On the learning rate: one, or one for every parameter group.
        batches: What every step is given.
        compute: Device and loss scaling.
        steps: How many in all.
        state: Everything that a step changes, by name: the trained tensors, and any others that ``after_step``
            changes in place.
        checkpoint: Where to keep the state; if it is there already, the run goes on from it.
        save_seconds: How often to keep it; None is every 20 seconds. It is also kept when Ctrl-C stops the run
            between two steps.
        remember: What is kept beside ``state``.
        on_step: Told of progress a few times a second.
        after_step: Told that a step, counted from 0, is done.

    Raises:
        ConfigError: The loss is no longer a number.
        RunError: The checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: Ctrl-C; the checkpoint has been written.
    """
    device, every = compute.device, _SAVE_SECONDS if save_seconds is None else save_seconds
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)  # type: ignore[arg-type]
    lrs = torch.tensor([_lr(optimizer, factors, step) for step in range(steps)], dtype=torch.float64)
    losses = torch.zeros(steps, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    start, seconds = 0, 0.0
    if checkpoint and checkpoint.path.exists():
        start, seconds, extra = checkpoint.restore(state, optimizer, scheduler, losses)
        if extra["scaler"]:
            compute.scaler.load_state_dict(extra["scaler"])
        if remember:
            remember.load(extra["remember"])
    began = saved = time.monotonic()
    shown = -math.inf  # the first step is always shown
    with _stop_between_steps() as stop:
        ahead = read_ahead(batches.batch, range(start, steps))
        for step, (inputs, labels) in enumerate(ahead, start):
            losses[step] = gradients(step, inputs.to(device), labels.to(device)).detach()
            compute.step(optimizer)
            scheduler.step()
            if after_step:
                after_step(step)
            now, last = time.monotonic(), step + 1 == steps
            show = last or now - shown >= _SHOW_SECONDS
            keep = last or stop.is_set() or now - saved >= every
            if show or keep:
                value = _finite(float(losses[step]), step + 1)
            if show and on_step:
                on_step(step + 1, steps, value, float(lrs[step]))
            shown = now if show else shown
            if (keep or stop.is_set()) and checkpoint:  # Ctrl-C may have come while progress was shown
                saved = now
                extra = {
                    "scaler": compute.scaler.state_dict(),
                    "remember": remember.dump() if remember else None,
                }
                checkpoint.save(step + 1, seconds + now - began, state, optimizer, scheduler, losses, extra)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {steps}")
    return Curve(losses.cpu().double(), lrs, seconds + time.monotonic() - began)


def _lr(optimizer: torch.optim.Optimizer, factors: Factor | Sequence[Factor], step: int) -> float:
    """Return the largest learning rate among the groups at a step; the scheduler has set their ``initial_lr``."""
    groups = optimizer.param_groups
    each = [factors] * len(groups) if callable(factors) else factors
    return max(float(group["initial_lr"]) * factor(step) for group, factor in zip(groups, each, strict=True))


def _finite(loss: float, step: int) -> float:
    """Return the loss, or stop a run that has left the numbers."""
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss became {loss} at step {step}: lower the learning rate (--lr) or use --precision fp32."
        )
    return loss


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is cut in half; a second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
