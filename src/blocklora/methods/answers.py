"""What was said of images by fits that had not seen them.

Axes: M = images, R = rows, N = classes, D = the width of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import Head, HowHeldOut

__all__ = ["CROSS_VALIDATED", "CROSS_VALIDATED_WITH_VAL", "HeldOut", "OutOfFold"]

CROSS_VALIDATED = "cross-validated on the training images"
"""The reason of a choice by training images, each judged by a classifier that was fitted without it."""

CROSS_VALIDATED_WITH_VAL = "cross-validated on the training and validation images"
"""The same, where validation images judged as well."""


@dataclass(frozen=True)
class HeldOut:
    """What classifiers of the same settings said of images that they were fitted without.

    Attributes:
        logits: (M, N).
        labels: (M,).
        how: How the images were kept out.
        features: Unit features of validation images, adapted and of the base model (M, 2, D); None where ``how`` names
            the training images.
        fold: Which fold each training image was held out of (M,), where ``how`` is ``folds``; else all 0.
        heads: What predicted for each of these folds; of the kind and with the numbers of the classifier's own.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    how: HowHeldOut
    fold: NDArray[np.int64]
    features: Tensor | None = None
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True)
class OutOfFold:
    """What whole fits said of images that they were fitted without; their classifiers are not kept.

    Attributes:
        logits: (R, N), at the scale of the classifier's own.
        labels: (R,).
        images: Which image each row is of (R,): training images come first, then validation images.
        reason: How they were held out, in a few words.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    reason: str

    @property
    def n_images(self) -> int:
        """How many images the rows are of."""
        return len(np.unique(self.images))

    def of_training(self, n: int) -> HeldOut | None:
        """Return a row for each of the n training images, the mean where it has several; None if one has none."""
        times = np.bincount(self.images, minlength=n)[:n]
        if not times.all():
            return None
        own = self.images < n
        logits, labels = np.zeros((n, self.logits.shape[1])), np.zeros(n, dtype=np.int64)
        np.add.at(logits, self.images[own], self.logits[own])
        labels[self.images[own]] = self.labels[own]
        return HeldOut(logits / times[:, None], labels, "leave-one-out", np.zeros(n, dtype=np.int64))
