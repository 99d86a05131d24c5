"""Why images got their answers: evidence, nearest training images and heat maps, of images that are opened again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier import Classifier, explain, heat_maps, why_no_heat_map
from blocklora.clip import crop_size, pixels
from blocklora.core.device import Compute
from blocklora.data import Source, open_for_model

__all__ = ["Reasons", "reasons"]

_AT_ONCE = 16  # heat maps, which keep every token of the last layer


@dataclass(frozen=True)
class Reasons:
    """Why one image got its answer.

    Attributes:
        evidence: Class names, the strongest first, and how far each logit, divided by the temperature, is above the
            mean of all classes.
        nearest: Names of the nearest training images, their class names and cosines, the nearest first.
        heat: Rows of patches, from the top left: in [-1, 1], how much each speaks for the answer rather than the other
            classes. They cover the square that the model sees, the middle of the image. None where there are none.
        why_no_heat: Why there are none; None where there are.
    """

    evidence: tuple[tuple[str, float], ...]
    nearest: tuple[tuple[str, str, float], ...]
    heat: tuple[tuple[float, ...], ...] | None
    why_no_heat: str | None = None


def reasons(
    classifier: Classifier, sources: Sequence[Source], features: Tensor, compute: Compute
) -> list[Reasons]:
    """Say why images got their answers.

    Args:
        classifier: What answers.
        sources: Readable images.
        features: Their adapted features (M, D).
        compute: Where to compute.

    Raises:
        RunError: The classifier keeps no training images.
        ImageError: An image cannot be read any more.
    """
    if not sources:
        return []
    names = classifier.class_names
    labels = classifier.logits(features).argmax(dim=1).numpy()
    heats: list[tuple[tuple[float, ...], ...] | None] = [None] * len(sources)
    why = why_no_heat_map(classifier)
    if not why:
        for start in range(0, len(sources), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            heats[part] = _heats(classifier, sources[part], labels[part], compute)
    return [
        Reasons(
            evidence=tuple((names[c], value) for c, value in found.evidence),
            nearest=tuple((name, names[c], cosine) for name, c, cosine in found.nearest),
            heat=heat,
            why_no_heat=why,
        )
        for found, heat in zip(explain(classifier, features), heats, strict=True)
    ]


def _heats(
    classifier: Classifier, sources: Sequence[Source], labels: NDArray[np.int64], compute: Compute
) -> list[tuple[tuple[float, ...], ...] | None]:
    """Return rows of patches for each image, to two digits."""
    processor = classifier.base.processor
    values = [pixels(open_for_model(source, crop_size(processor)), processor) for source in sources]
    found = heat_maps(classifier, torch.stack(values).to(compute.device), labels, compute)
    return [tuple(tuple(row) for row in heat.round(2).tolist()) for heat in found]
