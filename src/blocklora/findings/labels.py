"""Labels that are likely wrong, by confident learning on out-of-fold probabilities (Northcutt et al., 2021).

Axes: M = images, N = classes, D = the width of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from blocklora.metrics import fit_temperature

__all__ = ["LabelDoubts", "doubts", "out_of_fold"]

_FOLDS, _FEWEST = 5, 2
_SHRUNK = (0.1, 0.3, 0.6, 0.9)  # shares of the covariance that are replaced by a multiple of the identity
_LEAST_SPREAD = 1e-9  # where all images of a class are the same
_LISTED = 0.1  # the share of the images that may be listed as suspects


@dataclass(frozen=True)
class LabelDoubts:
    """Which labels are in doubt.

    Attributes:
        suspects: Places of images, the most doubtful first.
        confidence: The probability of the given label of each image (M,); NaN where none could be had.
        suggested: The most probable other class of each image (M,).
        rival: Its probability (M,); NaN where none could be had.
        n_confident: How many labels the confident joint calls wrong: an estimate of how many there are.
        accuracy: The share of the judged images whose most probable class is the given one.
    """

    suspects: NDArray[np.int64]
    confidence: NDArray[np.float64]
    suggested: NDArray[np.int64]
    rival: NDArray[np.float64]
    n_confident: int
    accuracy: float


def out_of_fold(
    features: NDArray[np.float32], labels: NDArray[np.int64], n_classes: int, groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the probabilities of the classes for each image by a discriminant analysis that did not see it.

    It is regularised (Friedman, 1989): the pooled covariance is shrunk towards a multiple of the identity, by the share
    whose out-of-fold probabilities, at the temperature that suits them best, have the lowest log loss.

    Args:
        features: Unit features (M, D).
        labels: The given labels (M,).
        n_classes: N.
        groups: A number for each image (M,); images of one number, such as duplicates, are held out together.

    Returns:
        Probabilities (M, N); NaN in all rows of classes with fewer than two groups, and everywhere where fewer than two
        classes have more.
    """
    found = np.full((len(labels), n_classes), np.nan)
    fold = _folds(labels, n_classes, groups)  # (M,)
    judged = np.flatnonzero(fold >= 0)
    if len(np.unique(labels[judged])) < 2:
        return found
    classes, given = np.unique(labels[judged], return_inverse=True)  # those that can be judged
    known, fold, best = features[judged].astype(np.float64), fold[judged], np.inf
    for share in _SHRUNK:
        logits = np.empty((len(given), len(classes)))
        for number in np.unique(fold):
            fit_to, held_out = fold != number, fold == number
            logits[held_out] = _discriminant(
                known[fit_to], given[fit_to], known[held_out], share, len(classes)
            )
        loss, rows = _at_best_temperature(logits, given)
        if loss < best:
            best, found[judged] = loss, 0.0
            found[np.ix_(judged, classes)] = rows
    return found


def _discriminant(
    known: NDArray[np.float64],
    labels: NDArray[np.int64],
    asked: NDArray[np.float64],
    share: float,
    n_classes: int,
) -> NDArray[np.float64]:
    """Return the log densities by class of images that are asked about (rows, N), a common term left out.

    Args:
        known: Features that are learned from (m, D).
        labels: Of these (m,); a class that has none gets the least density of each row.
        asked: Features of the others (rows, D).
        share: Of the covariance that is replaced by a multiple of the identity, in (0, 1].
        n_classes: N.
    """
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.zeros((n_classes, known.shape[1]))
    np.add.at(sums, labels, known)
    means = sums / np.maximum(counts, 1)[:, None]  # (N, D)
    away = known - means[labels]
    covariance = away.T @ away / len(known)  # (D, D)
    spread = max(float(np.trace(covariance)) / len(covariance), _LEAST_SPREAD)
    covariance = (1 - share) * covariance + share * spread * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, means.T)  # (D, N)
    logits = asked @ weights - 0.5 * (means.T * weights).sum(axis=0)
    least = logits[:, counts > 0].min(axis=1, keepdims=True)
    filled: NDArray[np.float64] = np.where(counts > 0, logits, least)
    return filled


def _at_best_temperature(
    logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the log loss and the probabilities (M, N) of logits at the temperature that makes the labels likeliest."""
    temperature = fit_temperature(logits, labels)
    rows = softmax(logits / temperature, axis=1)
    own = rows[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-12)).mean()), rows


def _folds(labels: NDArray[np.int64], n_classes: int, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return in which fold each image is held out (M,), -1 for images of a class that cannot be judged."""
    of_group: dict[int, int] = {}
    judged = np.zeros(len(labels), bool)
    for n in range(n_classes):
        own = list(dict.fromkeys(groups[labels == n].tolist()))
        judged |= (labels == n) & (len(own) >= _FEWEST)
        for place, group in enumerate(own, start=n):  # from another fold on in every class: folds of one size
            of_group.setdefault(group, place % _FOLDS)
    fold = np.array([of_group[group] for group in groups.tolist()], dtype=np.int64)
    return np.where(judged, fold, -1)


def doubts(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> LabelDoubts:
    """Rank the labels that are in doubt.

    A label is in doubt where another class is the most probable one, or where the confident joint places the image in
    another class: its probability reaches that class's threshold, the mean probability of the class among the images
    that bear its label. The least probable label comes first; no more than a tenth of the images are listed.

    Args:
        probabilities: Out-of-fold probabilities (M, N); rows may be NaN.
        labels: The given labels (M,).
    """
    m, n = probabilities.shape
    known = ~np.isnan(probabilities).any(axis=1)
    p, given = probabilities[known], labels[known]
    confidence, rival, suggested = np.full(m, np.nan), np.full(m, np.nan), labels.copy()
    if not len(p):
        return LabelDoubts(np.empty(0, np.int64), confidence, suggested, rival, 0, float("nan"))
    rows = np.arange(len(p))
    own = p[rows, given]
    sums = np.bincount(given, own, n) / np.maximum(np.bincount(given, minlength=n), 1)
    reached = np.where((p >= sums) & (sums > 0), p, -1.0)  # (M, N)
    placed = np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), given)
    likely = p.argmax(axis=1)
    others = p.copy()
    others[rows, given] = -1.0
    confidence[known], rival[known], suggested[known] = own, others.max(axis=1), others.argmax(axis=1)
    suspect = np.flatnonzero((placed != given) | (likely != given))
    ranked = suspect[np.argsort(own[suspect], kind="stable")][: max(1, round(_LISTED * len(p)))]
    return LabelDoubts(
        np.flatnonzero(known)[ranked],
        confidence,
        suggested,
        rival,
        int(np.count_nonzero(placed != given)),
        float((likely == given).mean()),
    )
