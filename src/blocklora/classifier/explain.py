"""Why an answer: evidence for classes, the training images that are like it, and the patches that spoke for it.

Axes: M = images, N = classes, D = the width of the shared space, G = patches in a row, S = side of an image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier.classifier import Classifier
from blocklora.classifier.heads import CONDITIONAL
from blocklora.classifier.unknown import known_images, nearest_images
from blocklora.clip import patch_relevance, why_no_relevance
from blocklora.core.device import Compute

__all__ = ["Explanation", "explain", "heat_maps", "why_no_heat_map"]

_STEP = 1e-3  # of unit features
_NEAREST = 3
_MOST_CLASSES = 5


@dataclass(frozen=True)
class Explanation:
    """Why one image got its answer.

    Attributes:
        evidence: Class indices, the strongest first, and how far each logit, divided by the temperature, is above the
            mean of all classes.
        nearest: Names, class indices and cosines of the nearest training images, the nearest first.
    """

    evidence: tuple[tuple[int, float], ...]
    nearest: tuple[tuple[str, int, float], ...]


def explain(classifier: Classifier, features: Tensor) -> list[Explanation]:
    """Explain answers.

    Args:
        classifier: What answers.
        features: Image features (M, D), as ``Classifier.logits`` takes them, M >= 1.

    Raises:
        RunError: The classifier keeps no training images.
    """
    known = known_images(classifier)
    places, cosines = nearest_images(classifier, features, _NEAREST)
    logits = (classifier.logits(features) / classifier.temperature).numpy()
    above = logits - logits.mean(axis=1, keepdims=True)  # (M, N)
    return [
        Explanation(
            evidence=tuple((int(c), float(row[c])) for c in np.argsort(-row, kind="stable")[:_MOST_CLASSES]),
            nearest=tuple(
                (known.names[i], int(known.labels[i]), float(cosine))
                for i, cosine in zip(near, similar, strict=True)
            ),
        )
        for row, near, similar in zip(above, places.tolist(), cosines.tolist(), strict=True)
    ]


def heat_maps(
    classifier: Classifier, pixel_values: Tensor, labels: NDArray[np.int64], compute: Compute
) -> NDArray[np.float64]:
    """Return how much each patch speaks for a class, and less for the others.

    Args:
        classifier: What answers.
        pixel_values: (M, 3, S, S) on the model's device, M >= 1.
        labels: The class of each image that is asked about (M,).
        compute: Where to compute.

    Returns:
        (M, G, G), in [-1, 1] by the largest size of each image.

    Raises:
        ConfigError: The model's patches cannot be told apart.
    """
    with torch.no_grad(), compute.autocast():
        features = classifier.image_features(pixel_values).float().cpu()
    directions = _directions(classifier, features, labels).to(pixel_values.device)
    model = classifier.adapted_tower
    found = patch_relevance(model, pixel_values, directions).double().numpy()
    largest = np.abs(found).max(axis=(1, 2), keepdims=True)
    return np.asarray(found / np.maximum(largest, np.finfo(np.float32).tiny))


def why_no_heat_map(classifier: Classifier) -> str | None:
    """Say why there are no heat maps for a classifier; None: there are."""
    if classifier.image.prompts is not None:
        return f"the image tower of {classifier.method} reads learned vectors beside the patches"
    return why_no_relevance(classifier.adapted_tower)


def _directions(classifier: Classifier, features: Tensor, labels: NDArray[np.int64]) -> Tensor:
    """Return how the logit of a class, less the mean of all, grows with each feature (M, D).

    By central differences of the head, which are exact where it is linear; of a head that runs the text tower, the
    difference between the class's prompt and the mean prompt. Of a mixture that also reads the base model's features
    these stand still: what is shown is what the adapted tower sees.

    Args:
        classifier: What answers.
        features: As ``Classifier.logits`` takes them: (M, D) or (M, 2, D).
        labels: (M,).
    """
    if classifier.head.kind == CONDITIONAL:
        prompts = classifier.zero_shot_features
        return prompts[torch.from_numpy(labels)] - prompts.mean(dim=0)
    steps = _STEP * torch.eye(features.shape[-1], dtype=torch.float64)  # (D, D)
    rows = []
    for feature, label in zip(features.double(), labels.tolist(), strict=True):
        up, down = (classifier.logits(_moved(feature, sign * steps)) for sign in (1, -1))  # (D, N)
        slope = (up - down) / (2 * _STEP)
        rows.append(slope[:, label] - slope.mean(dim=1))
    return torch.stack(rows).float()


def _moved(feature: Tensor, steps: Tensor) -> Tensor:
    """Return a feature (D,) moved by each step (D, D); of a pair (2, D) the first one alone moves: (D, 2, D)."""
    if feature.ndim == 1:
        return feature + steps
    return torch.stack([feature[0] + steps, feature[1].expand_as(steps)], dim=1)
