"""Models on the same N images, two at a time: who is right where, and Holm's correction where there are many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from blocklora.core.errors import DataError
from blocklora.metrics.intervals import mcnemar_exact, paired_difference_interval

__all__ = ["PairedAnswers", "holm", "pair_answers"]


@dataclass(frozen=True)
class PairedAnswers:
    """How two models answered the same images.

    Attributes:
        both: Images that both get right.
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
        neither: Images that both get wrong.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def difference(self) -> float:
        """Accuracy of the first - accuracy of the second, in [-1, 1]."""
        n = self.both + self.only_first + self.only_second + self.neither
        return (self.only_first - self.only_second) / n

    @property
    def interval(self) -> tuple[float, float]:
        """Of the difference: 95%, Newcombe's method 10."""
        return paired_difference_interval(self.both, self.only_first, self.only_second, self.neither)

    @property
    def p_value(self) -> float:
        """Of the hypothesis that both are equally good, in (0, 1]: the exact McNemar test."""
        return mcnemar_exact(self.only_first, self.only_second)


def pair_answers(first: ArrayLike, second: ArrayLike) -> PairedAnswers:
    """Count how two models answered the same images.

    Args:
        first: (N,) whether the first model is right, N >= 1.
        second: (N,) whether the second one is.

    Returns:
        The four counts, and what they say.

    Raises:
        DataError: There is no image, or the lengths differ.
    """
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.ndim != 1 or one.shape != other.shape or not one.size:
        raise DataError(
            f"Answers of shapes {one.shape} and {other.shape} cannot be paired; expected (N,) twice, one for each "
            "image, N at least 1."
        )
    counts = (one & other, one & ~other, ~one & other, ~one & ~other)
    return PairedAnswers(*(int(count.sum()) for count in counts))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the i-th smallest of m times m - i (from 0), never falling, at most 1.

    Source:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6 (1979) 65-70.
    """
    adjusted, running = [1.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = running
    return adjusted
