"""Scores of what was said of held-out images, image by image, so that two contenders can be compared on the same ones.

Axes: R = rows: an image as one part judges it; I = images, N = classes, K = members of a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from blocklora.methods.answers import CROSS_VALIDATED, CROSS_VALIDATED_WITH_VAL, OutOfFold
from blocklora.methods.held_out.parts import Part
from blocklora.metrics import fit_temperature, mixture_weights

__all__ = ["Mixture", "Scores", "difference", "mixture", "scores"]

_LEAST = float(np.finfo(np.float32).tiny)

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """How good probabilities are, image by image; an image that several parts judge counts once, with its mean.

    Attributes:
        images: The places of the images (I,), in order.
        losses: Their log losses (I,), in nats.
        correct: How often their top class is right (I,), in [0, 1].
        temperature: What the logits were divided by: the one that makes the right classes most probable.
    """

    images: NDArray[np.int64]
    losses: _Floats
    correct: _Floats
    temperature: float

    @property
    def log_loss(self) -> float:
        """The mean log loss."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Mixture:
    """A weighted mean of probabilities: the weights (K,), its scores, and the logarithms of the mean probabilities."""

    weights: tuple[float, ...]
    scores: Scores
    out_of_fold: OutOfFold


def scores(logits: Mapping[int, Tensor], parts: Sequence[Part], labels: Tensor) -> tuple[Scores, OutOfFold]:
    """Score a contender on all parts that judged it.

    Args:
        logits: By the number of a part (m, N).
        parts: All of them.
        labels: Of M training images, then V validation images (M + V,).

    Returns:
        The scores, and the rows that they are of.
    """
    rows, places = _rows(logits, parts)
    truth = labels[torch.from_numpy(places)].numpy()
    temperature = fit_temperature(rows, truth)
    found = _scores(softmax(rows / temperature, axis=1), places, truth, temperature)
    return found, _out_of_fold(rows, truth, places, parts)


def mixture(members: Sequence[Mapping[int, Tensor]], parts: Sequence[Part], labels: Tensor) -> Mixture:
    """Return the best weighted mean of contenders' probabilities on the parts that judged all of them.

    Each member's probabilities are those of its own temperature, found on all its rows; see ``scores``.

    Args:
        members: What each said (m, N), by the number of a part.
        parts: All of them.
        labels: Of training images, then validation images.
    """
    common = sorted(set.intersection(*(set(member) for member in members)))
    each = []
    for member in members:
        temperature = scores(member, parts, labels)[0].temperature
        rows, places = _rows({number: member[number] for number in common}, parts)
        each.append(softmax(rows / temperature, axis=1))
    truth = labels[torch.from_numpy(places)].numpy()
    of_truth = np.stack([found[np.arange(len(truth)), truth] for found in each])  # (K, R)
    weights = mixture_weights(np.minimum(of_truth, 1.0))
    mean = np.tensordot(weights, np.stack(each), axes=1)  # (R, N)
    logs = np.log(np.maximum(mean, _LEAST))
    found = _scores(mean, places, truth, 1.0)
    return Mixture(tuple(weights.tolist()), found, _out_of_fold(logs, truth, places, parts))


def difference(one: Scores, other: Scores, of: Literal["losses", "correct"]) -> tuple[float, float]:
    """Return the mean of ``one`` less ``other`` on the images that both have, and its standard error."""
    _, mine, theirs = np.intersect1d(one.images, other.images, assume_unique=True, return_indices=True)
    gap = getattr(one, of)[mine] - getattr(other, of)[theirs]
    error = float(gap.std(ddof=1) / np.sqrt(len(gap))) if len(gap) > 1 else 0.0
    return float(gap.mean()), error


def _out_of_fold(
    rows: _Floats, truth: NDArray[np.int64], places: NDArray[np.int64], parts: Sequence[Part]
) -> OutOfFold:
    """Return rows of logits as what sets a temperature."""
    reason = CROSS_VALIDATED_WITH_VAL if any(part.validated for part in parts) else CROSS_VALIDATED
    return OutOfFold(rows, truth, places, reason)


def _rows(logits: Mapping[int, Tensor], parts: Sequence[Part]) -> tuple[_Floats, NDArray[np.int64]]:
    """Return the rows (R, N) of all parts, and the images' places (R,)."""
    numbers = sorted(logits)
    places = [place for number in numbers for place in parts[number].judged]
    return torch.cat([logits[number] for number in numbers]).numpy(), np.array(places, dtype=np.int64)


def _scores(
    probabilities: _Floats, places: NDArray[np.int64], truth: NDArray[np.int64], temperature: float
) -> Scores:
    of_truth = probabilities[np.arange(len(truth)), truth]
    losses = -np.log(np.clip(of_truth, _LEAST, 1.0))
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    images, which = np.unique(places, return_inverse=True)
    times = np.bincount(which)
    return Scores(
        images,
        np.bincount(which, weights=losses) / times,
        np.bincount(which, weights=right) / times,
        temperature,
    )
