"""What a classifier said of some images, without the probabilities of all classes. M images, C classes, k named ones.

All that an evaluation asks of an image is which classes were most probable, how probable they were, and how probable
the true one was. So a table of images by classes, which at 100,000 classes takes 0.8 MB an image, exists for a few
images at a time only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from blocklora.metrics.calibration import Calibration, log_loss, top_calibration_error
from blocklora.metrics.checks import Floats, Ints, checked_labels, checked_probabilities

__all__ = ["Answers", "answers", "calibration_of_answers", "joined_answers", "top_classes"]


@dataclass(frozen=True)
class Answers:
    """What was said of M images.

    Attributes:
        top: (M, k) the most probable classes of each image, the answer first.
        shares: (M, k) their probabilities, in [0, 1].
        of_truth: (M,) the probability of the true class, in [0, 1].
        squares: (M,) the sum of the squares of all probabilities, in [0, 1].
    """

    top: Ints
    shares: Floats
    of_truth: Floats
    squares: Floats

    @property
    def predicted(self) -> Ints:
        """(M,) the answers."""
        return self.top[:, 0]

    @property
    def confidence(self) -> Floats:
        """(M,) their probabilities."""
        return self.shares[:, 0]


def answers(probabilities: ArrayLike, labels: ArrayLike, k: int = 1) -> Answers:
    """Keep what an evaluation asks for.

    Args:
        probabilities: (M, C), rows sum to 1, M >= 1.
        labels: (M,) true classes, 0..C-1.
        k: How many classes to keep of each image; no more than C.

    Raises:
        DataError: The arrays do not fit each other, there is no image, or a row is no distribution.
    """
    checked = checked_probabilities(probabilities)
    truth = checked_labels(labels, *checked.shape)
    top, shares = top_classes(checked, k)
    of_truth = checked[np.arange(len(truth)), truth]
    squares = (checked**2).sum(axis=1)
    return Answers(
        top, np.minimum(shares, 1.0), np.minimum(of_truth, 1.0), squares
    )  # rounding may leave 1 + 1e-7


def calibration_of_answers(said: Answers, labels: Ints) -> Calibration:
    """Return how honest the probabilities are, for true classes (M,)."""
    return Calibration(
        ece=top_calibration_error(said.confidence, said.predicted == labels),
        brier=float((said.squares - 2 * said.of_truth + 1).mean()),
        nll=log_loss(said.of_truth),
    )


def joined_answers(parts: Sequence[Answers]) -> Answers:
    """Put the answers to several lots of images, at least one, behind one another."""
    columns = ([getattr(part, name) for part in parts] for name in ("top", "shares", "of_truth", "squares"))
    return Answers(*(np.concatenate(column) for column in columns))


def top_classes(values: Floats, k: int) -> tuple[Ints, Floats]:
    """Find the classes of the largest values of each row.

    Args:
        values: (M, C).
        k: How many; no more than C.

    Returns:
        (M, k) classes, that of the largest value first and of equal ones the first, and (M, k) their values.
    """
    n_classes = values.shape[1]
    k = min(k, n_classes)
    least = np.partition(values, n_classes - k, axis=1)[:, n_classes - k]  # (M,) the k-th largest value
    top = np.empty((len(values), k), dtype=np.int64)
    for place, (row, limit) in enumerate(zip(values, least, strict=True)):
        among = np.flatnonzero(row >= limit)
        top[place] = among[np.argsort(-row[among], kind="stable")[:k]]
    return top, np.take_along_axis(values, top, axis=1)
