"""How a run is done, and what it goes on from: what ``run_in`` is told beside data and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from blocklora.classifier import NOTHING_KEPT, FeatureStore
from blocklora.core.deadline import Deadline
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.resources import Resources
from blocklora.report import RunMetrics
from blocklora.training import OnExpected

__all__ = ["Before", "HowRun", "Progress"]


class Progress(Protocol):
    """A progress callback."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        ...

    def part(self, name: str) -> None:
        """What follows belongs to a part of the run of this name."""
        ...

    def encoded(self, done: int, total: int) -> None:
        """Test images have been encoded."""
        ...


@dataclass(frozen=True)
class HowRun:
    """How a run is done; its result does not depend on it. See ``fit_run``."""

    resume: bool = False
    progress: Progress | None = None
    store: FeatureStore = NOTHING_KEPT
    resources: Resources | None = None
    deadline: Deadline | None = None
    on_expected: OnExpected | None = None
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Before:
    """A finished run that a run goes on from.

    Attributes:
        facts: What config.json says of it, ready for JSON.
        model_sha256: A hash of its base model; None where it is not known.
        start: Its adapter, by PEFT's names; None where there is none to go on from.
        told: Adds to the metrics what became of the old run's.
    """

    facts: Mapping[str, Any]
    model_sha256: str | None
    start: Mapping[str, Tensor] | None
    told: Callable[[RunMetrics], RunMetrics]
