"""Answers of a finished run, computed with torch.

Axes: B = images of a batch, D = the width of a feature, N = classes, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blocklora.classifier import chance_known, class_sets, in_halves, known_images, why_no_heat_map
from blocklora.clip import crop_size, pixels
from blocklora.core.words import printable
from blocklora.data import Source, open_for_model
from blocklora.report import thumbnail
from blocklora.run.confidence import alarm_note, promise_of
from blocklora.run.explain import reasons
from blocklora.run.folder import CONFIG, SPLIT, part_images
from blocklora.run.load import load_run
from blocklora.serve.backend import Answer, BackendFacts, NearImage, Why

__all__ = ["TorchBackend"]

_SMALL = 128  # pixels, the longer side of a training image that is shown
_KEPT = 1000  # such images


class TorchBackend:
    """A finished run, on a device.

    Args:
        run: The RUN folder.
        device: Where to compute.
        threads: Cores that torch may use in this process; None leaves it as it is.
        coverage: How often the true class should be in an image's set, in (0, 1); None makes no sets.
        false_alarms: Images that look so unlike the classes that at most this share of known ones does are called
            unknown; None: none are.
        explain: Whether to say why, if asked, and so to show training images.

    Raises:
        RunError: The folder is not a finished run, its base model has other weights now, or it keeps no answers to
            held-out images, which sets and unknown images need, or no training images, which reasons need.
        ModelError: The base model cannot be loaded.
        ConfigError: The coverage or the false alarms are out of range.
    """

    def __init__(
        self,
        run: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        coverage: float | None = None,
        false_alarms: float | None = None,
        explain: bool = False,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._run = load_run(run, device=device)
        classifier = self._run.classifier
        self._processor = classifier.base.processor
        self._coverage, self._false_alarms = coverage, false_alarms
        notes: tuple[str, ...] = () if coverage is None else (promise_of(classifier, coverage),)
        notes += () if false_alarms is None else (alarm_note(classifier, false_alarms),)
        self._training: Mapping[str, Source] = {}
        if explain:
            known_images(classifier)  # raises where there are none
            self._training = _training_images(run)
            why = why_no_heat_map(classifier)
            notes += () if why is None else (f"There are no heat maps: {why}.",)
        self._small = lru_cache(_KEPT)(self._thumbnail)
        labels = tuple(str(label) for label in self._run.labels)
        self.facts = BackendFacts(labels, classifier.method, "torch", notes, explain)

    def prepare(self, content: bytes, name: str) -> NDArray[np.float32]:
        """See ``Backend``."""
        image = open_for_model(content, crop_size(self._processor), name=name)
        return np.asarray(pixels(image, self._processor).numpy())

    @torch.no_grad()
    def answer(self, pixel_values: NDArray[np.float32]) -> list[Answer]:
        """See ``Backend``."""
        values = torch.from_numpy(pixel_values).to(self._run.compute.device)
        with self._run.compute.autocast():
            features = in_halves(self._run.classifier.image_features, values)
        rows = self._run.classifier.probabilities(features)
        return [
            Answer(*parts)
            for parts in zip(rows, self._sets(features, rows), self._unknown(features), strict=True)
        ]

    @torch.no_grad()
    def explain(self, pixel_values: NDArray[np.float32]) -> list[Why]:
        """See ``Backend``."""
        run, values = self._run, torch.from_numpy(pixel_values)
        with run.compute.autocast():
            features = in_halves(run.classifier.image_features, values.to(run.compute.device))
        return [
            Why(
                one.evidence,
                tuple(
                    NearImage(_shown(name), label, cosine, self._small(name))
                    for name, label, cosine in one.nearest
                ),
                one.heat,
            )
            for one in reasons(
                run.classifier, features, values.__getitem__, run.compute, names=self.facts.labels
            )
        ]

    def _thumbnail(self, name: str) -> str | None:
        """Return a small copy of a training image, by the name that the run gave it; None where it is not there."""

        def opened(name: str) -> Image.Image | None:
            source = self._training.get(name)
            return None if source is None else open_for_model(source, _SMALL)

        found = thumbnail(name, opened, _SMALL)
        return None if found is None else found.address

    def _sets(self, features: Tensor, rows: NDArray[np.float64]) -> list[tuple[str, ...] | None]:
        """Return each image's set, the most probable class first, from its features (B, D) and probabilities (B, N)."""
        if self._coverage is None:
            return [None] * len(rows)
        chosen = class_sets(self._run.classifier, features, self._coverage)  # (B, N)
        order = np.argsort(-rows, kind="stable")
        labels = self.facts.labels
        return [tuple(labels[k] for k in places if row[k]) for row, places in zip(chosen, order, strict=True)]

    def _unknown(self, features: Tensor) -> list[bool | None]:
        """Say of each image whether it is none of the classes, from its features (B, D)."""
        if self._false_alarms is None:
            return [None] * len(features)
        return [
            known <= self._false_alarms for known in chance_known(self._run.classifier, features).tolist()
        ]


def _training_images(run: Path) -> Mapping[str, Source]:
    """Return the training images of a run that are still there, by name; of a saved classifier none are known."""
    if not ((run / SPLIT).is_file() and (run / CONFIG).is_file()):
        return {}
    return {example.image: example.source for example in part_images(run, "train")}


def _shown(name: str) -> str:
    """Return an image's name without the place where it lies on this machine."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute():
            return printable(path.name)
    return printable(name)
