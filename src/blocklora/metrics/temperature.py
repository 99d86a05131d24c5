"""The one number that makes a classifier as sure as it should be. N images, C classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from blocklora.metrics.checks import Floats, Ints, checked_labels, checked_scores

__all__ = ["fit_temperature"]

USUAL_SPREAD = 2.5  # of zero-shot CLIP's logits over the classes, whose temperature is about right
LOG_RANGE = 9.0  # e^9 = 8,100: the temperatures tried reach that far below and above the logits' spread


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T for which softmax(logits / T) fits images that were kept out of training.

    With s the spread of the logits (their root mean square, each row less its mean) and T0 = s / 2.5, it minimises

        sum over images of -log softmax(logits / T)[label]   +   (T0/T - 1 + log(T/T0))

    over T in [s e^-9, s e^9]. The first term alone is temperature scaling. On few images it can be absurd: where all
    are right it asks for T = 0, boundless certainty. The second term is 0 at T = T0, positive elsewhere, and weighs
    about as much as a handful of images. Zero-shot CLIP's logits have a spread of about 2.5, so there T0 is about 1;
    logits of another scale are as good: multiplied by a they get a times the temperature, and the same probabilities.
    Both terms are convex in 1/T, so there is one minimum, and the answer is the same every time.

    Args:
        logits: (N, C) scores as they enter the softmax, at any scale. N may be 0.
        labels: (N,) true classes, 0..C-1.

    Returns:
        T, above 0. It is 1, no change, if there is no image, or if no image's logits tell the classes apart.

    Raises:
        DataError: The arrays do not fit each other, or a logit is not finite.

    Source:
        Guo et al., ICML 2017, section 4.2, for the first term.
    """
    scores = checked_scores(logits, "logits")
    truth = checked_labels(labels, *scores.shape)
    spread = _spread(scores)
    if spread == 0:
        return 1.0
    best = minimize_scalar(
        lambda log_t: _temperature_loss(scores / spread, truth, float(log_t)),
        bounds=(-LOG_RANGE, LOG_RANGE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(spread * np.exp(best.x))


def _spread(scores: Floats) -> float:
    """The root mean square of the scores, each row less its mean; 0 where there is no row."""
    if scores.size == 0:
        return 0.0
    centred = scores - scores.mean(axis=1, keepdims=True)  # (N, C)
    largest = float(np.abs(centred).max())
    if largest <= np.finfo(np.float64).eps * float(np.abs(scores).max()):  # equal but for rounding
        return 0.0
    return largest * float(np.sqrt(np.mean((centred / largest) ** 2)))


def _temperature_loss(scores: Floats, truth: Ints, log_t: float) -> float:
    """The sum above, for scores of spread 1."""
    inverse = float(np.exp(-log_t))
    of_truth = log_softmax(scores * inverse, axis=1)[np.arange(len(truth)), truth]
    prior = inverse / USUAL_SPREAD - 1 + log_t + float(np.log(USUAL_SPREAD))
    return float(-of_truth.sum()) + prior
