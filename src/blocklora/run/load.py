"""Finished runs, opened to predict or to be measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from blocklora.classifier import Classifier, at_once, read_both_towers, read_classifier
from blocklora.clip import Clip
from blocklora.core.device import Compute, resolve_device, usable_precision
from blocklora.core.files import user_path

__all__ = ["LoadedRun", "load_run", "load_towers"]


@dataclass(frozen=True)
class LoadedRun:
    """A classifier of a RUN folder, and where it predicts.

    Attributes:
        classifier: The classifier.
        labels: One a class.
        found_names: The classes as the run's data named them, where it got other words for them; else empty.
        compute: Where it is; the precision is the run's own, where the device has it.
        images_at_once: How many images go through the image tower at a time.
    """

    classifier: Classifier
    labels: Sequence[str | int | float | bool]
    found_names: Sequence[str]
    compute: Compute
    images_at_once: int

    @property
    def notes(self) -> tuple[str, ...]:
        """Say in what this differs from how the run was fitted, a sentence each."""
        own = self.classifier.precision
        if self.compute.precision == own:
            return ()
        return (f"computed in {self.compute.precision}; the run was fitted in {own}",)


def load_run(
    run: Path, *, device: str = "auto", precision: str = "auto", model: str | None = None
) -> LoadedRun:
    """Open a RUN folder, or a folder that ``FewShotClassifier.save`` wrote, to classify images.

    Args:
        run: The folder.
        device: Where to predict.
        precision: ``auto`` is the run's own, where the device has it.
        model: Where the base model is now, if it has moved.

    Raises:
        RunError: The folder is not a finished run, or its base model has other weights now.
        ModelError: The base model cannot be loaded.
    """
    where = resolve_device(device)
    classifier, record = read_classifier(user_path(run), device=where, model=model)
    return LoadedRun(
        classifier, record.labels, record.found_names, _compute(classifier, where, precision), at_once(where)
    )


def load_towers(run: Path, *, device: str = "auto", model: str | None = None) -> tuple[LoadedRun, Clip]:
    """Open a RUN folder with both towers, to recognise classes by their names; see ``load_run``."""
    where = resolve_device(device)
    classifier, clip = read_both_towers(user_path(run), device=where, model=model)
    loaded = LoadedRun(
        classifier, classifier.class_names, (), _compute(classifier, where, "auto"), at_once(where)
    )
    return loaded, clip


def _compute(classifier: Classifier, device: torch.device, precision: str) -> Compute:
    wanted = classifier.precision if precision == "auto" else precision
    return Compute(device, usable_precision(wanted, device))
