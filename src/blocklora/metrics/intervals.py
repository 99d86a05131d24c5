"""How sure a count of correct answers makes us: intervals, and a test for two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

from blocklora.core.errors import ConfigError, DataError

__all__ = [
    "cross_validated_interval",
    "mcnemar_exact",
    "paired_difference_interval",
    "wilson_interval",
]


@lru_cache(maxsize=4096)  # among many classes the same counts come again and again
def wilson_interval(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, without continuity correction.

    It stays inside [0, 1] and keeps its coverage near 0 and 1 and for few images, where the usual
    "plus or minus two standard errors" fails.

    Args:
        n_correct: Correct answers, 0..n.
        n: Answers, at least 1.
        confidence: In (0, 1).

    Returns:
        The lower and the upper limit, in [0, 1].

    Raises:
        ConfigError: The confidence is not strictly between 0 and 1.
        DataError: The counts are impossible.

    Source:
        Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212; recommended by Brown, Cai and DasGupta,
        Statistical Science 16 (2001) 101-133.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; expected a value between 0 and 1, such as 0.95.")
    if not 0 <= n_correct <= n or n < 1:
        raise DataError(
            f"{n_correct} correct of {n} has no interval; expected at least one answer, and 0 to n correct."
        )
    limits = binomtest(int(n_correct), int(n)).proportion_ci(confidence, method="wilson")
    return float(limits.low), float(limits.high)


def cross_validated_interval(
    n_correct: Sequence[int], n_judged: Sequence[int], n_fitted: Sequence[int], confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of an accuracy by K-fold cross-validation: the wider of two, on each side.

    Wilson's interval of the pooled answers takes the images as independent, and knows nothing of how much a fit depends
    on its images. The corrected interval of Nadeau and Bengio comes from how much the accuracies of the folds differ:
    t (K - 1 degrees of freedom) times sqrt((1 / K + judged / fitted) S^2), S^2 being their variance; the second term
    makes up for the images that the fits have in common. Their folds were random; K disjoint folds are a case that has
    no exact interval (Bengio and Grandvalet, 2004), and with few folds S^2 can be small by chance, hence the wider.

    Args:
        n_correct: Correct answers of each of K folds, K >= 2.
        n_judged: Images that each fold judged, at least 1.
        n_fitted: Images that each fold was fitted to, at least 1.
        confidence: In (0, 1).

    Returns:
        The lower and the upper limit, in [0, 1].

    Raises:
        ConfigError: The confidence is not strictly between 0 and 1.
        DataError: There are fewer than two folds, or counts are impossible.

    Source:
        Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003) 239-281, section 4.
    """
    if len(n_correct) < 2 or min(n_judged) < 1 or min(n_fitted) < 1:
        raise DataError(f"{len(n_correct)} folds: expected two or more, with images in each.")
    low, high = wilson_interval(sum(n_correct), sum(n_judged), confidence)
    accuracies = np.array(n_correct) / np.array(n_judged)  # (K,)
    share = 1 / len(accuracies) + float(np.mean(np.array(n_judged) / np.array(n_fitted)))
    quantile = float(student.ppf((1 + confidence) / 2, len(accuracies) - 1))
    margin = quantile * sqrt(share * float(accuracies.var(ddof=1)))
    accuracy = sum(n_correct) / sum(n_judged)
    return max(0.0, min(low, accuracy - margin)), min(1.0, max(high, accuracy + margin))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The exact McNemar test of two models on the same images.

    Only the images that one model gets right and the other wrong say which is better. If the models were
    equally good, either would win such a image with probability 1/2: a two-sided binomial test.

    Args:
        only_first: Images that only the first model gets right.
        only_second: Images that only the second model gets right.

    Returns:
        The p-value, in (0, 1]; 1 if the models are right on the same images.

    Source:
        McNemar, Psychometrika 12 (1947) 153-157, with the binomial distribution in place of chi-squared.
    """
    discordant = only_first + only_second
    return float(binomtest(int(only_first), int(discordant), 0.5).pvalue) if discordant else 1.0


def paired_difference_interval(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's interval of the difference of two accuracies on the same images (his method 10).

    It joins the two Wilson intervals by the correlation of the models' answers, so that, unlike the Wald
    interval, it neither collapses to a point where the models agree nor leaves [-1, 1].

    Args:
        both: Images that both models get right.
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
        neither: Images that both get wrong.
        confidence: In (0, 1).

    Returns:
        The lower and upper limit of (accuracy of the first - accuracy of the second), in [-1, 1].

    Raises:
        ConfigError: The confidence is not strictly between 0 and 1.
        DataError: There is no image.

    Source:
        Newcombe, Statistics in Medicine 17 (1998) 2635-2650.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    low_1, high_1 = wilson_interval(first, n, confidence)
    low_2, high_2 = wilson_interval(second, n, confidence)
    down_1, up_1 = first / n - low_1, high_1 - first / n
    down_2, up_2 = second / n - low_2, high_2 - second / n
    phi = _correlation(both, only_first, only_second, neither)
    difference = (only_first - only_second) / n
    # max(.., 0): a sum of squares in exact arithmetic, which rounding may bring just below 0
    below = sqrt(max(down_1**2 - 2 * phi * down_1 * up_2 + up_2**2, 0.0))
    above = sqrt(max(up_1**2 - 2 * phi * up_1 * down_2 + down_2**2, 0.0))
    return difference - below, difference + above


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Newcombe's phi: the correlation of correct answers, drawn towards 0 by n/2 where it is positive."""
    n = both + only_first + only_second + neither
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    covariance = float(both * neither - only_first * only_second)
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)
    return covariance / sqrt(margins) if margins else 0.0
