"""How many steps a time limit allows: the first ones are timed and undone, and then the number is set for good.

The number is set before the schedule of the learning rate is made, so a run that is cut ends with the same bits as one
that was asked for so many steps. It is kept beside the checkpoint: a run that goes on goes on with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from statistics import fmean

import torch
from torch import Tensor

from blocklora.core.deadline import Deadline, in_words
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.core.resources import Resources
from blocklora.core.threads import read_ahead
from blocklora.training.checkpoint import Checkpoint
from blocklora.training.minimise import Batches, Steps

__all__ = ["InTime", "OnExpected", "Pace", "all_steps", "seconds_a_step", "steps_in_time"]

_LOG = logging.getLogger(__name__)
_MARGIN = 0.95  # of the time that is left that is planned with: steps do not all take the same time
_TIMED = (
    0.04  # of the time that is left that timing may take; or so many seconds, if that is not too large a part
)
_TIMED_SECONDS, _LARGEST_PART = 6.0, 0.25
_FEW, _ENOUGH_SECONDS, _MOST = 5, 1.0, 50  # steps to time: a few, unless they are short

OnExpected = Callable[[float], None]
"""Told before training how many seconds it is expected to take."""


Pace = Callable[[float], float]
"""Says how many seconds a step takes; to find out takes no more than the seconds that it is given, or one step."""
InTime = Callable[[int, Pace], Steps]
"""Given the steps of a recipe and a step's pace, says how many there is time for."""


def all_steps(recipe: int, pace: Pace) -> Steps:
    """Return all steps: there is no time limit."""
    return Steps(recipe)


def steps_in_time(
    recipe: int,
    pace: Pace,
    deadline: Deadline | None,
    checkpoint: Checkpoint | None = None,
    *,
    whole: int = 1,
    on_expected: OnExpected | None = None,
) -> Steps:
    """Return how many steps to train.

    Args:
        recipe: How many without a time limit; it is never more.
        pace: Asked only where there is a deadline, or someone to be told.
        deadline: When the last step is to be done; None: there is time for all.
        checkpoint: Where the number is kept; a run that was started before keeps its number.
        whole: Steps of an epoch, where only whole epochs count.
        on_expected: Told how long the steps of the recipe will take, where there is no deadline.

    Raises:
        ConfigError: There is no time for a single step, or epoch.
    """
    if deadline is None:
        if on_expected and not (checkpoint and checkpoint.path.exists()):
            on_expected(recipe * pace(0.0))
        return Steps(recipe)

    def decide() -> int:
        left = deadline.left()
        seconds = pace(max(_TIMED * left, min(_TIMED_SECONDS, _LARGEST_PART * left)))
        left = deadline.left()
        number = min(recipe, int(_MARGIN * left / seconds) // whole * whole)
        _LOG.info("time limit: a step takes %.2g s, %.0f s are left: %d steps", seconds, left, number)
        if number < whole:
            raise _too_short(deadline, seconds * whole, "step" if whole == 1 else "epoch")
        return number

    return Steps(checkpoint.first_start("steps", decide) if checkpoint else decide(), recipe)


def _too_short(deadline: Deadline, seconds: float, what: str) -> ConfigError:
    """Return the error that there is no time for one step or epoch, and how much would be needed."""
    needed = deadline.passed() + deadline.reserved + seconds / _MARGIN
    return ConfigError(
        f"time limit {in_words(deadline.seconds)}: too short for one {what}, which takes {in_words(seconds)} here; "
        f"{in_words(deadline.passed())} have passed, and the evaluation will take {in_words(deadline.reserved)}. "
        f"Expected at least {in_words(1.1 * needed)}, a smaller model, or a method on frozen features (--method "
        "linear-probe)."
    )


def seconds_a_step(
    gradients: Callable[[int, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    compute: Compute,
    state: Mapping[str, Tensor],
    resources: Resources | None,
    budget: float,
) -> float:
    """Take the first steps, time them, and put everything back as it was.

    Args:
        gradients: See ``minimise``, as the others.
        optimizer: It has taken no step yet.
        batches: What the steps are given.
        compute: Device and loss scaling.
        state: Everything that a step changes.
        resources: Cores for reading ahead; None is all that this process may use.
        budget: Seconds that this may take; one step is taken whatever it takes.

    Returns:
        Seconds: the mean, without the first step if there are others, as it has to wait for its images.
    """
    before = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    scaler = compute.scaler.state_dict()
    took: list[float] = []
    ahead = read_ahead(batches.batch, range(_MOST), cores=resources.cores if resources else None)
    with compute.training(), closing(ahead):
        began = last = time.monotonic()
        for step, (inputs, labels) in enumerate(ahead):
            gradients(step, inputs.to(compute.device), labels.to(compute.device))
            compute.step(optimizer)
            if compute.device.type == "cuda":
                torch.cuda.synchronize(compute.device)
            now = time.monotonic()
            took.append(now - last)
            last, spent = now, now - began
            enough = len(took) >= _FEW and spent >= _ENOUGH_SECONDS
            if enough or spent + took[-1] > budget:
                break
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(before[name])
    optimizer.state.clear()
    if scaler:
        compute.scaler.load_state_dict(scaler)
    return max(fmean(took[1:] or took), 1e-6)
