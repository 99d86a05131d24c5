"""What a classifier keeps of images, so that it can judge its own answers, and the file that it stands in.

Axes: n = held-out images, M = training images, N = classes, D = the width of the shared space, K = folds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from blocklora.classifier.heads import Head
from blocklora.core.errors import RunError
from blocklora.core.files import write_bytes
from blocklora.metrics import UnknownStudy
from blocklora.metrics.conformal import SCORES
from blocklora.metrics.unknown import TOGETHER

__all__ = [
    "EVIDENCE",
    "Evidence",
    "HeldOutAnswers",
    "HowHeldOut",
    "KnownImages",
    "hide_names",
    "read_evidence",
]

EVIDENCE = "evidence.safetensors"
_HELD_OUT, _FOLD, _TRAINING = "held_out/", "fold/", "training/"

HowHeldOut = Literal["validation", "folds", "leave-one-out"]
"""``validation``: images of their own. ``folds`` and ``leave-one-out``: training images, each judged by a classifier
that was fitted without it; of folds these classifiers are kept."""


@dataclass(frozen=True)
class HeldOutAnswers:
    """What was said of images that were kept out of training.

    Attributes:
        how: How they were kept out.
        labels: True classes (n,).
        confidence: Probability of each answer, at the classifier's temperature (n,).
        correct: Whether each answer is right (n,).
        strangeness: By the name of each score in ``metrics.SCORES``, that of the true class (n,), from raw logits.
        unlikeness: By the names of ``metrics.unlikeness``, those that are used, ``softmax`` and ``nearest`` (n,).
        fold: Which fold each image was held out of (n,), from 0; all 0 but for ``folds``.
        heads: The K heads that were fitted without each fold, of the same kind and with the same numbers as the
            classifier's own; empty but for ``folds``.
    """

    how: HowHeldOut
    labels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    strangeness: Mapping[str, NDArray[np.float64]]
    unlikeness: Mapping[str, NDArray[np.float64]]
    fold: NDArray[np.int64]
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True)
class KnownImages:
    """The training images as the classifier sees them.

    Attributes:
        features: Unit features (M, D), float16.
        labels: True classes (M,).
        names: M names.
    """

    features: Tensor
    labels: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What is kept; None of what there is not.

    Attributes:
        held_out: Answers to images that were kept out of training.
        training: The training images.
        unknown: How well unknown things are found, with classes that play them.
    """

    held_out: HeldOutAnswers | None = None
    training: KnownImages | None = None
    unknown: UnknownStudy | None = None

    def __bool__(self) -> bool:
        """Return whether anything is kept."""
        return self.held_out is not None or self.training is not None

    def write(self, folder: Path) -> None:
        """Write evidence.safetensors into a folder, if there is anything to write."""
        if not self:
            return
        tensors, words = _tensors(self)
        write_bytes(folder / EVIDENCE, save(tensors, words))


def read_evidence(folder: Path, head: Head, n_classes: int, width: int) -> Evidence:
    """Read what ``Evidence.write`` wrote.

    Args:
        folder: Of the classifier.
        head: The classifier's own, whose kind and numbers those of the folds share.
        n_classes: N.
        width: D.

    Raises:
        RunError: The file is missing or damaged.
    """
    path = folder / EVIDENCE
    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # no mapping
        evidence = _evidence(tensors, words, head)
        for one in evidence.held_out.heads if evidence.held_out else ():
            one.check(n_classes, width)
        return evidence
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: this file cannot be used ({str(error).rstrip('.')}); fit it again."
        ) from error


def hide_names(folder: Path) -> None:
    """Give the training images of a folder's evidence.safetensors numbers in the place of their names."""
    path = folder / EVIDENCE
    with safe_open(path, framework="pt") as file:
        words = file.metadata() or {}
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # no mapping
    if "images" in words:
        words["images"] = json.dumps([str(number + 1) for number in range(len(json.loads(words["images"])))])
    write_bytes(path, save(tensors, words))


def _tensors(evidence: Evidence) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return everything as tensors by name, and words."""
    tensors: dict[str, Tensor] = {}
    words: dict[str, str] = {}
    if held_out := evidence.held_out:
        words["how"] = held_out.how
        columns: dict[str, NDArray[Any]] = {
            "labels": held_out.labels,
            "confidence": held_out.confidence,
            "correct": held_out.correct,
            "fold": held_out.fold,
            **held_out.strangeness,
            **{name: held_out.unlikeness[name] for name in TOGETHER},
        }
        tensors |= {
            _HELD_OUT + name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in columns.items()
        }
        for k, head in enumerate(held_out.heads):
            tensors |= {f"{_FOLD}{k}/{name}": value.contiguous() for name, value in head.tensors.items()}
    if evidence.unknown:
        words["unknown"] = json.dumps(asdict(evidence.unknown))
    if training := evidence.training:
        words["images"] = json.dumps(training.names)
        tensors[_TRAINING + "features"] = training.features.contiguous()
        tensors[_TRAINING + "labels"] = torch.from_numpy(training.labels)
    return tensors, words


def _evidence(tensors: Mapping[str, Tensor], words: Mapping[str, str], head: Head) -> Evidence:
    """Return what ``_tensors`` took apart."""
    held_out, training = None, None
    if "how" in words:
        columns = {
            name.removeprefix(_HELD_OUT): value.numpy()
            for name, value in tensors.items()
            if name.startswith(_HELD_OUT)
        }
        held_out = HeldOutAnswers(
            how=cast("HowHeldOut", words["how"]),
            strangeness={name: columns[name] for name in SCORES},
            unlikeness={name: columns[name] for name in TOGETHER},
            heads=tuple(_heads(tensors, head)),
            **{name: columns[name] for name in ("labels", "confidence", "correct", "fold")},
        )
        if len({len(column) for column in columns.values()}) != 1:
            raise ValueError("the columns of held-out images are of different lengths")
    if "images" in words:
        training = KnownImages(
            tensors[_TRAINING + "features"],
            tensors[_TRAINING + "labels"].numpy(),
            tuple(json.loads(words["images"])),
        )
        if not len(training.features) == len(training.labels) == len(training.names):
            raise ValueError("features, labels and names of training images are of different lengths")
    study = json.loads(words["unknown"]) if "unknown" in words else None
    return Evidence(held_out, training, study and UnknownStudy(**study))


def _heads(tensors: Mapping[str, Tensor], head: Head) -> list[Head]:
    """Return the heads of the folds, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_FOLD):
            _, k, inner = name.split("/", 2)
            found.setdefault(int(k), {})[inner] = value
    return [Head(head.kind, found[k], head.numbers) for k in sorted(found)]
