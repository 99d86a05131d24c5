"""Choosing one of several candidates by labelled images that were kept out of their training. N images, C classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics.checks import checked_labels, checked_scores

__all__ = ["Winner", "choose_candidate"]

_ROUNDING = 1e-9  # log losses nearer than this are equal: the first of them wins on every machine


@dataclass(frozen=True)
class Winner:
    """The chosen candidate: its place, how many there were, its accuracy in [0, 1] and its log loss in nats."""

    index: int
    candidates: int
    accuracy: float
    log_loss: float


def choose_candidate(logits: Iterable[ArrayLike], labels: ArrayLike) -> Winner:
    """Choose the candidate of the highest accuracy; of equals the one of the lowest log loss; then the first.

    On few images many candidates are equally accurate. Of a linear probe they reach from probabilities that are all
    alike to certainty, and the log loss, mean -log softmax(logits)[label], tells them apart.

    Args:
        logits: Of each candidate (N, C) scores as they enter the softmax, in an order of preference. They are looked
            at one after the other, so a generator needs the memory of one.
        labels: (N,) true classes, 0..C-1, N >= 1.

    Returns:
        The winner.

    Raises:
        ConfigError: There is no candidate.
        DataError: There is no image, the arrays do not fit each other, or a logit is not finite.
    """
    best: Winner | None = None
    n = 0
    for n, candidate in enumerate(logits, start=1):
        accuracy, log_loss = _scores(candidate, labels)
        if best is None or (accuracy, -log_loss) > (best.accuracy, -best.log_loss + _ROUNDING):
            best = Winner(n - 1, n, accuracy, log_loss)
    if best is None:
        raise ConfigError("There is no candidate to choose from; expected the logits of at least one.")
    return Winner(best.index, n, best.accuracy, best.log_loss)


def _scores(logits: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The accuracy and the log loss of one candidate."""
    scores = checked_scores(logits, "logits")
    truth = checked_labels(labels, *scores.shape)
    if not len(truth):
        raise DataError("There is no image to choose a candidate by; give at least one labelled image.")
    of_truth = log_softmax(scores, axis=1)[np.arange(len(truth)), truth]
    return float((scores.argmax(axis=1) == truth).mean()), float(-of_truth.mean())
