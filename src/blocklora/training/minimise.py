"""The training loop that all methods share: batches in, gradients, steps, a checkpoint.

It is told how to compute gradients and knows nothing else; ``loop.train`` is the one that knows CLIP's two towers.
Everything random of a step follows from (seed, step), so a resumed run ends with the same bits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, LostRankError, RunError
from blocklora.core.ranks import Ranks
from blocklora.core.resources import Resources, available_resources
from blocklora.core.schedules import Factor
from blocklora.core.threads import read_ahead
from blocklora.training._saving import Saver, stop_between_steps
from blocklora.training.checkpoint import Checkpoint, Remember, RunState

__all__ = ["Batches", "Curve", "OnStep", "Steps", "Trend", "minimise"]

_SAVE_SECONDS, _SHOW_SECONDS = 20.0, 0.2
_FEWEST_FOR_TREND, _FALL, _RISE, _NEAR_ZERO = 8, 0.02, 0.1, 0.01

OnStep = Callable[[int, int, float, float], None]
"""Progress callback: the step, how many there are, its loss and its learning rate."""
Trend = Literal["fell", "flat", "rose"]
_Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """What a step is given: ``TrainingImages``, or batches of features."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs (B, ...) and labels (B,)."""
        ...


@dataclass(frozen=True)
class Steps:
    """How many steps to train.

    Attributes:
        number: How many.
        recipe: How many they would be without a time limit; None where there is none.
    """

    number: int
    recipe: int | None = None


@dataclass(frozen=True)
class Curve:
    """How a training run went.

    Attributes:
        losses: The loss of every step (steps,), float64 on the CPU.
        lrs: The largest learning rate of every step (steps,).
        seconds: Time in the loop, that before an interruption included.
        recipe_steps: How many steps they would be without a time limit; None where there is none.
    """

    losses: Tensor
    lrs: Tensor
    seconds: float
    recipe_steps: int | None = field(default=None, kw_only=True)

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

    def trend(self) -> Trend | None:
        """Compare the mean loss of the last quarter of the steps with that of the first quarter.

        Returns:
            ``fell`` if it is at least 2% lower, or at most 0.01, where nothing is left to learn; ``rose`` if it is
            more than 10% higher; else ``flat``. None for fewer than 8 steps, too few to tell.
        """
        quarter = len(self.losses) // 4
        if len(self.losses) < _FEWEST_FOR_TREND:
            return None
        first, last = float(self.losses[:quarter].mean()), float(self.losses[-quarter:].mean())
        if last <= _NEAR_ZERO or last <= (1 - _FALL) * first:
            return "fell"
        return "rose" if last > (1 + _RISE) * first else "flat"


def minimise(
    gradients: Callable[[int, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    factors: Factor | Sequence[Factor],
    batches: Batches,
    compute: Compute,
    *,
    steps: int | Steps,
    state: Mapping[str, Tensor],
    checkpoint: Checkpoint | None = None,
    save_seconds: float | None = None,
    remember: Remember | None = None,
    on_step: OnStep | None = None,
    after_step: Callable[[int], None] | None = None,
    resources: Resources | None = None,
) -> Curve:
    """Minimise a loss by an optimizer; the caller's settings and handlers are afterwards as before.

    Args:
        gradients: Given the step, B inputs and labels (B,) on the device; fills ``.grad``, returns the loss, a scalar.
        optimizer: Over the trainable tensors.
        factors: On the learning rate: one, or one for every parameter group.
        batches: What every step is given.
        compute: Device and loss scaling.
        steps: How many in all.
        state: Everything that a step changes, by name: the trainable tensors, and any others that ``after_step``
            changes in place.
        checkpoint: Where to keep the state; if it is there already, the run goes on from it.
        save_seconds: How often to keep it, in seconds; None is 20, and 0 is after every step. Saving takes at most
            5% of the time; after a save that took more than ``save_seconds`` only Ctrl-C saves again.
        remember: What is kept beside ``state``.
        on_step: Progress callback, called a few times a second.
        after_step: Called with the number of every step that is done, counted from 0.
        resources: Cores for reading ahead; None is all that this process may use.

    Raises:
        ConfigError: The loss is no longer a number, or the caller is in ``torch.inference_mode``.
        RunError: The checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: Ctrl-C, on whatever rank; the checkpoint has been written, as it is with the next.
        LostRankError: Another rank has ended.
    """
    recipe, steps = (steps.recipe, steps.number) if isinstance(steps, Steps) else (None, steps)
    scheduler, lrs = _schedule(optimizer, factors, steps)
    losses = _zeros(steps, compute.device)
    kept = RunState(state, optimizer, scheduler, losses, compute.scaler, remember)
    held = _Held(checkpoint, kept, compute.ranks)
    start = held.restore()
    saver = Saver(held.save, _SAVE_SECONDS if save_seconds is None else save_seconds)
    report = _Report(on_step, losses, lrs)
    ahead = _ahead(batches, range(start, steps), resources, compute.ranks)
    with compute.training(), stop_between_steps(compute.ranks) as stop, closing(ahead):
        for step in range(start, steps):
            with held.with_all_ranks(step, stop):
                losses[step] = _loss(gradients, step, ahead, compute.device)
            compute.step(optimizer)
            scheduler.step()
            if after_step:
                after_step(step)
            _after(step, steps, stop, saver, report)
    return Curve(losses.cpu().double(), lrs, held.seconds(), recipe_steps=recipe)


def _ahead(
    batches: Batches, steps: range, resources: Resources | None, ranks: Ranks
) -> Generator[_Batch, None, None]:
    """Read batches ahead, with this process's share of the machine's cores."""
    cores = (resources or available_resources(1 / ranks.local_count)).cores
    return read_ahead(batches.batch, steps, cores=cores)


def _after(step: int, steps: int, stop: threading.Event, saver: Saver, report: _Report) -> None:
    """Report a step and save the state, where it is time for it; stop after Ctrl-C, unless it was the last step."""
    last = step + 1 == steps
    keep = stop.is_set() or saver.due(last=last)
    report(step, must_be_finite=keep)
    if keep or stop.is_set():  # Ctrl-C may have come while progress was reported
        saver.save(step + 1)
    if stop.is_set() and not last:
        raise KeyboardInterrupt(f"stopped after step {step + 1} of {steps}")


class _Held:
    """The state of a run with its clock, and the checkpoint that keeps it, if there is one."""

    def __init__(self, checkpoint: Checkpoint | None, state: RunState, ranks: Ranks) -> None:
        self._checkpoint, self._state, self._ranks = checkpoint, state, ranks
        self._before, self._began = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Return the seconds in the loop, those before an interruption included."""
        return self._before + time.monotonic() - self._began

    def restore(self) -> int:
        """Go back to the checkpoint if it is there, and return how many steps were done."""
        step = 0
        if self._checkpoint and self._checkpoint.path.exists():
            step, self._before = self._checkpoint.restore(self._state)
            self._began = time.monotonic()
        if len(set(self._ranks.collect(step))) > 1 and self._checkpoint:
            raise RunError(
                f"{self._checkpoint.path}: not all processes see it; put --out on a disk that they share."
            )
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint after so many steps; of several ranks the first one does."""
        if self._checkpoint and self._ranks.first:
            self._checkpoint.save(step, self.seconds(), self._state)

    @contextmanager
    def with_all_ranks(self, step: int, stop: threading.Event) -> Iterator[None]:
        """Share what is to stop one rank; where one ends amid a step, write the state of those before it."""
        try:
            yield
            if self._ranks.any(stop.is_set()):
                stop.set()
        except LostRankError:
            if step:
                self.save(step)
            raise


class _Report:
    """Calls the progress callback, for the first and the last step and a few times a second."""

    def __init__(self, on_step: OnStep | None, losses: Tensor, lrs: Tensor) -> None:
        self._on_step, self._losses, self._lrs = on_step, losses, lrs
        self._shown = -math.inf

    def __call__(self, step: int, *, must_be_finite: bool) -> None:
        """Report a step if it is time; the loss is looked at then, or where it must be finite."""
        steps, now = len(self._losses), time.monotonic()
        show = step + 1 == steps or now - self._shown >= _SHOW_SECONDS
        if show or must_be_finite:
            loss = _finite(float(self._losses[step]), step + 1)
        if show:
            self._shown = now
            if self._on_step:
                self._on_step(step + 1, steps, loss, float(self._lrs[step]))


def _loss(
    gradients: Callable[[int, Tensor, Tensor], Tensor],
    step: int,
    ahead: Iterator[_Batch],
    device: torch.device,
) -> Tensor:
    """Compute the gradients of the next batch, and return its loss; the batch does not outlive the call."""
    inputs, labels = next(ahead)
    return gradients(step, inputs.to(device), labels.to(device)).detach()


def _zeros(steps: int, device: torch.device) -> Tensor:
    """Return a place for the loss of every step, float64 where the device has it."""
    return torch.zeros(steps, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _schedule(
    optimizer: torch.optim.Optimizer, factors: Factor | Sequence[Factor], steps: int
) -> tuple[torch.optim.lr_scheduler.LRScheduler, Tensor]:
    """Return the schedule of the learning rates, and the largest rate among the groups at every step (steps,)."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)  # type: ignore[arg-type]
    first = scheduler.base_lrs
    each = [factors] * len(first) if callable(factors) else factors
    lrs = [
        max(float(lr) * factor(step) for lr, factor in zip(first, each, strict=True)) for step in range(steps)
    ]
    return scheduler, torch.tensor(lrs, dtype=torch.float64)


def _finite(loss: float, step: int) -> float:
    """Return the loss, or stop a run whose loss is no longer a number."""
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss became {loss} at step {step}: lower the learning rate (--lr) or use --precision fp32."
        )
    return loss
