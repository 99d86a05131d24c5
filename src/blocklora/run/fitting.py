"""How the fits of a run are done, of which it may have several: what all of them share, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from blocklora.classifier import NOTHING_KEPT, FeatureStore
from blocklora.core.deadline import Deadline
from blocklora.core.device import reset_peak_memory
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.resources import Resources
from blocklora.data import Example
from blocklora.methods import Fit, FitConfig, Prepared, fit_again, fit_classifier
from blocklora.training import Checkpoint, OnExpected

__all__ = ["Fitting", "Progress"]


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
class Fitting:
    """How the fits of a run are done.

    Attributes:
        config: What a fit does.
        store: Where features of the frozen model are kept.
        resources: Cores and memory to use; None: all that this process may use.
        progress: The progress callback.
        on_expected: Told before training how many seconds a fit and its evaluation are expected to take.
        ranks: The processes that share the work.
        start: An adapter that training goes on from, by PEFT's names; None: a new one.
    """

    config: FitConfig
    store: FeatureStore = NOTHING_KEPT
    resources: Resources | None = None
    progress: Progress | None = None
    on_expected: OnExpected | None = None
    ranks: Ranks = ALONE
    start: Mapping[str, Tensor] | None = None

    def times(self, n: int) -> Fitting:
        """Return the same, with what is expected of a fit told as that of n."""
        told = self.on_expected
        return replace(self, on_expected=told and (lambda seconds: told(n * seconds)))

    def part(self, name: str) -> None:
        """Say which part of the run begins."""
        if self.progress:
            self.progress.part(name)

    def fit(self, prepared: Prepared, checkpoint: Checkpoint, deadline: Deadline | None, n_test: int) -> Fit:
        """Fit to what is prepared; see ``fit_classifier``. The peak of memory counts from here."""
        reset_peak_memory(self.config.device)
        return fit_classifier(
            prepared,
            self.config,
            store=self.store,
            resources=self.resources,
            checkpoint=checkpoint,
            on_step=self.progress.step if self.progress else None,
            deadline=deadline,
            n_test=n_test,
            on_expected=self.on_expected if self.ranks.count == 1 else None,
            on_part=self.progress.part if self.progress else None,
            ranks=self.ranks,
            start=self.start,
        )

    def fit_again(
        self, fit: Fit, prepared: Prepared, images: Sequence[Example], checkpoint: Checkpoint
    ) -> Fit:
        """Fit what was fitted to other images; see ``fit_again``."""
        return fit_again(
            fit,
            prepared,
            self.config,
            images,
            store=self.store,
            resources=self.resources,
            checkpoint=checkpoint,
            on_step=self.progress.step if self.progress else None,
        )
