"""What will be tried within the time there is: decided once, by a few measurements, and written down.

The choice must not depend on the clock of a later start: a resumed run follows the plan of its first start.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from blocklora.classifier import NOTHING_KEPT
from blocklora.core.deadline import Deadline
from blocklora.methods.adapters import block_lora
from blocklora.methods.auto.contenders import FROZEN, adapter_settings
from blocklora.methods.frozen.features import frozen_features
from blocklora.methods.held_out.parts import Part
from blocklora.methods.method import MOST_SHOTS, Job

__all__ = ["AutoPlan", "Costs", "decide", "first_plan", "fits_of"]

FOR_FROZEN = 0.35  # of the time, at most, where Block-LoRA is tried as well
FOR_THE_END = 0.06  # of the time: what nobody foresees
ENOUGH_STEPS = {
    4: 120,
    2: 80,
    1: 40,
}  # how many settings of Block-LoRA are tried, and with how many steps at least
_A_FIT = 0.8  # seconds of one fit on frozen features, for 160 images of 10 classes
_USUAL = 1600  # of those: images x classes
_TIMED_STEPS = 3
_BACKWARD = 3  # a training step costs so many passes of its images


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds.

    Attributes:
        view: Of one image through the image tower, decoding included.
        step: Of a step of Block-LoRA in both towers; None where even a guess is far too long.
        start: Of all that a fit of Block-LoRA does beside its steps.
    """

    view: float
    step: float | None
    start: float = 0.0


@dataclass(frozen=True)
class AutoPlan:
    """What is tried.

    Attributes:
        frozen: Methods on frozen features, in this order.
        frozen_seconds: How long they may take; after it no more of them are started.
        adapters: Settings of Block-LoRA; none where the time is too short.
        steps: Of each fit of Block-LoRA.
        left_out: What is not tried, and why.
    """

    frozen: tuple[str, ...]
    frozen_seconds: float
    adapters: tuple[Mapping[str, Any], ...] = ()
    steps: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


def first_plan(job: Job, settings: Any, parts: Sequence[Part], deadline: Deadline) -> AutoPlan:
    """Return the plan of the run's first start: one that was written down, or a new one."""
    keep = job.checkpoint.part("auto-plan") if job.checkpoint else None
    if keep and (kept := keep.kept()):
        return _read(kept[1])
    plan = decide(job, parts, _measured(job, settings, deadline), deadline)
    if keep:
        keep.keep({}, asdict(plan))
    return plan


def fits_of(settings: int, parts: int) -> int:
    """Return how often Block-LoRA is fitted: settings are halved after each part, and the best one fits all images."""
    total, left = 1, settings
    for _ in range(parts):
        total += left
        left = -(-left // 2)
    return total


def decide(job: Job, parts: Sequence[Part], costs: Costs, deadline: Deadline) -> AutoPlan:
    """Share the time that is left out among methods.

    Args:
        job: Images and classes.
        parts: How often each method is fitted.
        costs: What was measured.
        deadline: When all is to be done.
    """
    m, n = len(job.task.train), len(job.task.class_names)
    left = max(0.0, deadline.left() - FOR_THE_END * deadline.seconds)
    fits = (len(parts) + 1) * _A_FIT * max(0.1, m * n / _USUAL)
    chosen, left_out, frozen_cost = _frozen(job, costs, FOR_FROZEN * left, fits / len(FROZEN))
    folds = sum(1 for part in parts if part.repetition == 0)
    for_adapters = left - min(FOR_FROZEN * left, frozen_cost)
    tried, steps = _adapters(costs, folds, for_adapters)
    most = block_lora.BlockLoraSettings.STEPS_A_SHOT * min(job.task.shots, MOST_SHOTS)
    if not tried:
        left_out = left_out | {"block-lora": _too_long(costs, folds, for_adapters)}
        chosen, more_out, _ = _frozen(job, costs, left, fits / len(FROZEN))
        left_out = {"block-lora": left_out["block-lora"]} | more_out
    return AutoPlan(
        frozen=tuple(chosen),
        frozen_seconds=FOR_FROZEN * left if tried else left,
        adapters=tuple(adapter_settings(job.clip)[:tried]),
        steps=min(steps, most),
        left_out=left_out,
    )


def _frozen(
    job: Job, costs: Costs, seconds: float, a_method: float
) -> tuple[list[str], dict[str, str], float]:
    """Return the methods on frozen features that fit into a time, why others do not, and what they take together."""
    size = len(job.task.train) * len(job.task.class_names)
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    computed: dict[str, int] = {}
    total = 0.0
    for name, known in FROZEN.items():
        families = known.method.families
        if families is not None and job.clip.model_type not in families:
            left_out[name] = f"it does not work on models of the type {job.clip.model_type}"
            continue
        if size > known.most:
            left_out[name] = f"it takes too long with {len(job.task.train):,} training images"
            continue
        new = max(0, known.passes - computed.get(known.crops, 0)) * len(job.task.train) * costs.view
        if known.passes and total + new + a_method > seconds:
            left_out[name] = f"its augmented views would take {new:.0f} s, and the time is short"
            continue
        chosen.append(name)
        computed[known.crops] = max(known.passes, computed.get(known.crops, 0))
        total += new + a_method
    return chosen, left_out, total


def _adapters(costs: Costs, folds: int, seconds: float) -> tuple[int, int]:
    """Return how many settings of Block-LoRA are tried, and with how many steps each; 0 where none is."""
    if costs.step is None:
        return 0, 0
    for tried, enough in ENOUGH_STEPS.items():
        steps = int((seconds / fits_of(tried, folds) - costs.start) / max(costs.step, 1e-6))
        if steps >= enough:
            return tried, steps
    return 0, 0


def _too_long(costs: Costs, folds: int, seconds: float) -> str:
    """Say why Block-LoRA is not tried."""
    step = costs.step
    if step is None:
        return "a training step would take far too long here for the time there is"
    fewest = min(ENOUGH_STEPS.values())
    needed = fits_of(1, folds) * (fewest * step + costs.start)
    return f"{fits_of(1, folds)} fits of {fewest} steps would take {needed:.0f} s, and {seconds:.0f} s are there for it"


def _measured(job: Job, settings: Any, deadline: Deadline) -> Costs:
    """Measure an image through the tower, and a step of Block-LoRA; the features are needed anyway."""
    spared, began = job.store.seconds_spared, time.monotonic()
    frozen_features(job, job.task.train)
    took = time.monotonic() - began + job.store.seconds_spared - spared
    view = took / len(job.task.train)
    guess = _BACKWARD * view * min(32, len(job.task.train))
    if guess * min(ENOUGH_STEPS.values()) > deadline.left():
        return Costs(view, None)
    times: list[float] = []
    given = {
        **adapter_settings(job.clip)[0],
        "iterations": _TIMED_STEPS,
        "memory_limit": settings.memory_limit,
    }
    inner = replace(
        job,
        checkpoint=None,
        store=NOTHING_KEPT,
        on_step=lambda *_: times.append(time.monotonic()),
    )
    began = time.monotonic()
    block_lora.fit(inner, block_lora.BlockLoraSettings(augment=settings.augment, **given))
    whole = time.monotonic() - began
    step = (times[-1] - times[0]) / (_TIMED_STEPS - 1)
    judging = view * len(job.task.train)
    return Costs(view, step, max(0.0, whole - _TIMED_STEPS * step) + judging)


def _read(facts: Mapping[str, Any]) -> AutoPlan:
    """Return the plan that was written down."""
    return AutoPlan(
        tuple(facts["frozen"]),
        facts["frozen_seconds"],
        tuple(facts["adapters"]),
        facts["steps"],
        facts["left_out"],
    )
