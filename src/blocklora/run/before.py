"""The finished run that another run goes on from: what stands in it, and what the other one must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora.classifier.record import ClassifierRecord
from blocklora.core.errors import DataError, RunError
from blocklora.core.words import count
from blocklora.data import DataChoice, Example, fitted_to, read_split_part
from blocklora.report import RunMetrics, read_metrics
from blocklora.run.folder import CONFIG, METRICS, SPLIT, data_choice, read_json

__all__ = ["Before", "OldRun", "read_old_run"]


@dataclass(frozen=True)
class Before:
    """A finished run that a run goes on from.

    Attributes:
        facts: What config.json says of it, ready for JSON.
        model_sha256: A hash of its base model; None where it is not known.
        told: Adds to the metrics what became of the old run's.
    """

    facts: Mapping[str, Any]
    model_sha256: str | None
    told: Callable[[RunMetrics], RunMetrics]


@dataclass(frozen=True)
class OldRun:
    """The run that a class is added to: its folder and what stands in it."""

    folder: Path
    config: Mapping[str, Any]
    split: Mapping[str, Any]
    metrics: RunMetrics
    record: ClassifierRecord

    @property
    def choice(self) -> DataChoice:
        """Its data."""
        return data_choice(self.config)

    def part(self, name: str) -> tuple[Example, ...]:
        """Return the images of a part, all of which must be there as they were."""
        found = read_split_part(self.split, name, self.choice)
        if found.problems:
            total = len(found.images) + len(found.problems)
            raise DataError(
                f"{count(len(found.problems), 'image')} of the {total} images of the part '{name}' of {self.folder} "
                f"cannot be used: {found.problems[0].reason}."
            )
        return found.images


def read_old_run(run: Path) -> OldRun:
    """Read what a finished run says of itself.

    Raises:
        RunError: It is not finished, or was fitted to what it was measured on.
    """
    record = ClassifierRecord.read(run)
    if not (run / METRICS).is_file():
        raise RunError(
            f"{run}: holds no {METRICS}, so it is no finished RUN folder; name one that 'blocklora fit' has written."
        )
    metrics, split = read_metrics(run / METRICS), read_json(run / SPLIT)
    if len(fitted_to(split)) > 1:
        raise RunError(
            f"{run}: its classifier was fitted to the images that it was measured on, so they would not show what a "
            "class more changes; fit without --refit and with a test part, and name that run."
        )
    return OldRun(run, read_json(run / CONFIG), split, metrics, record)
