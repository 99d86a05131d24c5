"""Whether an image is of one of the classes at all, and which training images are like it.

Axes: M = images, n = held-out images, T = training images, D = the width of a feature.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier.classifier import Classifier, portions
from blocklora.classifier.evidence import KnownImages
from blocklora.classifier.sets import held_out_answers
from blocklora.core.errors import RunError
from blocklora.metrics import known_p_values, together, unlikeness

__all__ = ["chance_known", "known_images", "nearest_images"]

_ROWS = 1024  # images at a time


def chance_known(classifier: Classifier, features: Tensor) -> NDArray[np.float64]:
    """Return how usual each image would be among known ones (M,), in (0, 1].

    Of images like those of the classes a share of q or less gets a value of q or less.

    Args:
        classifier: What answers.
        features: Image features, as ``Classifier.logits`` takes them.

    Raises:
        RunError: The classifier keeps no training images, or no answers to held-out images.
    """
    known = held_out_answers(classifier).unlikeness
    if not len(features):
        return np.empty(0)
    found = []
    for part in portions(features, len(classifier.class_names)):
        nearest = nearest_images(classifier, part, 1)[1][:, 0]
        scores = unlikeness(classifier.logits(part).numpy(), None, nearest, classifier.temperature)
        found.append(known_p_values(together(scores, known), together(known, known)))
    return np.concatenate(found)


def nearest_images(
    classifier: Classifier, features: Tensor, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which training images are nearest to each image (M, n), nearest first, and their cosines (M, n).

    Args:
        classifier: What keeps the training images.
        features: Image features, as ``Classifier.logits`` takes them, M >= 1; the adapted ones are compared.
        n: How many; no more than there are.

    Raises:
        RunError: The classifier keeps no training images.
    """
    if features.ndim == 3:
        features = features[:, 0]
    known = known_images(classifier).features.float()  # (T, D)
    places, cosines = [], []
    for part in torch.split(features, _ROWS):
        found = (part @ known.T).topk(min(n, len(known)), dim=1)
        places.append(found.indices)
        cosines.append(found.values)
    return torch.cat(places).numpy(), torch.cat(cosines).double().numpy()


def known_images(classifier: Classifier) -> KnownImages:
    """Return the training images as the classifier sees them.

    Raises:
        RunError: It keeps none; the message says what to do.
    """
    found = classifier.evidence.training
    if found is None:
        raise RunError(
            "this classifier keeps no features of its training images: an earlier version of blocklora wrote it, or "
            "its classes were changed; fit it again."
        )
    return found
