"""Images of things that are none of the classes: how unlike the known ones they look. M images, C classes.

Every score here is larger the less an image looks like one of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from blocklora.metrics.checks import Floats, Ints

__all__ = ["FALSE_ALARMS", "UnknownStudy", "known_p_values", "study_unknown", "together", "unlikeness"]

FALSE_ALARMS = 0.05  # of known images, how many may be called unknown where nothing else is asked for
TOGETHER = ("softmax", "nearest")  # the scores that are used, together
ANY_COSINE = (
    2.0  # above every cosine: among known images of this value no image is near, so ``nearest`` ranks none
)
MOST_GROUPS = 5  # of classes, each of which plays the unknown once


@dataclass(frozen=True)
class UnknownStudy:
    """How well unknown things are found, where some of the classes play them and the others are known.

    Attributes:
        auroc: By score, the chance that an unknown image scores higher than a known one; 0.5 is guessing.
        caught: The share of unknown images that the score ``together`` finds at 5% false alarms.
        groups: How many groups of classes played the unknown, one after the other.
        n_images: Held-out images.
    """

    auroc: Mapping[str, float]
    caught: float
    groups: int
    n_images: int


def unlikeness(
    logits: ArrayLike, cosines: ArrayLike | None, nearest: ArrayLike, temperature: float
) -> dict[str, Floats]:
    """How unlike every class images are, by several scores.

    Args:
        logits: (M, C), not divided by the temperature.
        cosines: (M, C) between the base model's image features and its class features; None leaves ``mcm`` out.
        nearest: (M,) the largest cosine to a training image.
        temperature: The fitted one.

    Returns:
        (M,) each: ``softmax``, less the top probability (Hendrycks and Gimpel, 2017); ``energy`` (Liu et al., 2020);
        ``mcm``, less the top probability of zero-shot cosines at temperature 1 (Ming et al., 2022, equation 2);
        ``nearest``, less the largest cosine to a training image (Sun et al., 2022, with k = 1).
    """
    scores = np.asarray(logits, dtype=np.float64) / temperature
    found = {
        "softmax": -softmax(scores, axis=1).max(axis=1),
        "energy": -np.asarray(logsumexp(scores, axis=1)),
        "nearest": -np.asarray(nearest, dtype=np.float64),
    }
    if cosines is not None:
        found["mcm"] = -softmax(np.asarray(cosines, dtype=np.float64), axis=1).max(axis=1)
    return found


def together(scores: Mapping[str, Floats], known: Mapping[str, Floats]) -> Floats:
    """The mean of the ranks that ``softmax`` and ``nearest`` have among those of known images.

    Args:
        scores: (M,) each, of the images to judge.
        known: (n,) each, of images that are known to be of the classes.

    Returns:
        (M,) in [0, 1].
    """
    ranks = [
        np.searchsorted(np.sort(known[name]), scores[name], side="right") / len(known[name])
        for name in TOGETHER
    ]
    return np.asarray((ranks[0] + ranks[1]) / 2)


def known_p_values(scores: ArrayLike, known: ArrayLike) -> Floats:
    """How usual each score would be of a known image.

    Args:
        scores: (M,) of the images to judge.
        known: (n,) of held-out images of the classes.

    Returns:
        (M,) (1 + how many of the n are as large or larger) / (n + 1). Of images like these a share of q or less has a
        value of q or less, so calling those unknown gives so many false alarms at most.

    Source:
        Bates et al., Testing for outliers with conformal p-values, Annals of Statistics 51 (2023), equation 3.
    """
    ordered = np.sort(np.asarray(known, dtype=np.float64))
    smaller = np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    return np.asarray((1 + len(ordered) - smaller) / (len(ordered) + 1))


def study_unknown(
    logits: Floats, cosines: Floats, nearest: Floats, labels: Ints, temperature: float
) -> UnknownStudy | None:
    """Let each group of classes play the unknown, as if the classifier had never heard of them.

    Args:
        logits: (n, C) of held-out images, not divided by the temperature.
        cosines: (n, C) of the base model, see ``unlikeness``.
        nearest: (n, C) the largest cosine to a training image of each class.
        labels: (n,) true classes.
        temperature: The fitted one.

    Returns:
        The study; None where there are fewer than three classes, or a group leaves no known or no unknown image.
    """
    n_classes = logits.shape[1]
    if n_classes < 3:
        return None
    n_groups = min(MOST_GROUPS, n_classes)
    group = np.arange(n_classes) % n_groups  # (C,)
    aurocs: list[dict[str, float]] = []
    caught: list[float] = []
    for left_out in range(n_groups):
        kept = group != left_out  # (C,)
        known: NDArray[np.bool_] = kept[labels]
        if known.all() or not known.any():
            return None
        scores = unlikeness(logits[:, kept], cosines[:, kept], nearest[:, kept].max(axis=1), temperature)
        of_known = {name: values[known] for name, values in scores.items()}
        scores["together"] = together(scores, of_known)
        aurocs.append({name: float(roc_auc_score(~known, values)) for name, values in scores.items()})
        p_values = known_p_values(scores["together"][~known], scores["together"][known])
        caught.append(float((p_values <= FALSE_ALARMS).mean()))
    return UnknownStudy(
        auroc={name: float(np.mean([one[name] for one in aurocs])) for name in aurocs[0]},
        caught=float(np.mean(caught)),
        groups=n_groups,
        n_images=len(labels),
    )
