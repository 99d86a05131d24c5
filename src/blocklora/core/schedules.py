"""Schedules of the learning rate: factors on it, by step."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Factor", "epoch_cosine", "step_cosine"]

_WARM_UP_LR = 1e-5

Factor = Callable[[int], float]
"""The factor on a learning rate at a step, counted from 0."""


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
