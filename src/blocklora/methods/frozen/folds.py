"""Cross-validation over the training images, for methods that choose a setting where there are no validation images.

Axes: M = training images, m = those held out of one fit, N = classes, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from blocklora.core.choices import Choice, Scalar
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.method import Job
from blocklora.metrics import choose_candidate

__all__ = ["MOST_FOLDS", "Logits", "choose_value", "folds", "out_of_fold_logits"]

MOST_FOLDS = 5
"""More folds cost more fits and change what is chosen little."""

Fold = tuple[Tensor, Tensor]
"""Indices of the images to fit to, and of those held out."""

Logits = Callable[[Tensor], Iterable[Tensor]]
"""From unit features (m, D) to the logits (m, N) of each candidate, in the order of preference."""


def folds(labels: Tensor, seed: int, most: int = MOST_FOLDS) -> list[Fold]:
    """Cut images into parts with the same share of every class, and hold each part out once.

    Args:
        labels: Of the images (M,); every class from 0 to the largest label has one or more.
        seed: Where the order comes from.
        most: The most parts. There are no more than the smallest class has images, so every class is in every fit.

    Returns:
        Of every fold the indices to fit to and those held out. Nothing where a class has one image alone: it cannot
        be fitted to and held out.
    """
    k = min(most, int(torch.bincount(labels).min()))
    if k < 2:
        return []
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])  # scikit-learn takes 32 bits
    parts = StratifiedKFold(k, shuffle=True, random_state=state).split(np.zeros(len(labels)), labels.numpy())
    return [(torch.from_numpy(fit), torch.from_numpy(held_out)) for fit, held_out in parts]


def out_of_fold_logits(parts: Sequence[Fold], logits: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return logits (M, N) of the training images, each by the fit that did not see it.

    Args:
        parts: What ``folds`` returned; at least one.
        logits: Given the indices to fit to and those held out (m,), returns the logits (m, N) of the latter.
    """
    found = torch.cat([logits(fit, held_out) for fit, held_out in parts])
    return found[torch.cat([held_out for _, held_out in parts]).argsort()]


def choose_value(
    job: Job,
    values: Sequence[Scalar | tuple[Scalar, ...]],
    *,
    beforehand: Scalar | tuple[Scalar, ...],
    logits: Logits,
    held_out: Callable[[], Iterable[Tensor]],
    reason: str = "cross-validated on the training images",
) -> Choice:
    """Choose a setting by validation images; without them by training images that were held out.

    The highest accuracy wins, of equals the lowest log loss; see ``choose_candidate``.

    Args:
        job: Its validation images choose, if it has any.
        values: One or more, in the order of preference.
        beforehand: The value to take where a class has one training image, and there are no validation images.
        logits: Of a fit to all training images, for each of ``values``.
        held_out: Returns logits (M, N) of the training images for each of ``values``, each image's by a fit that did
            not see it. It is only called where every class has two images or more.
        reason: What ``held_out`` does, in words.
    """
    if job.task.val:
        labels = labels_of(job.task.val)
        features = frozen_features(job, job.task.val)[0]
        best = choose_candidate((of.numpy() for of in logits(features)), labels.numpy())
        return Choice(
            values[best.index],
            "validation",
            n_images=len(labels),
            candidates=len(values),
            score=best.accuracy,
            score_name="accuracy",
        )
    labels = labels_of(job.task.train)
    if int(torch.bincount(labels).min()) < 2:
        return Choice(
            beforehand, "fixed", "there are no validation images, and a class has one training image"
        )
    best = choose_candidate((of.numpy() for of in held_out()), labels.numpy())
    return Choice(values[best.index], "fixed", reason)
