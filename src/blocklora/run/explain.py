"""Why images got their answers: evidence, nearest training images and heat maps.

Axes: M = images, D = the width of a feature, S = side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklora.classifier import Classifier, explain, heat_maps, why_no_heat_map
from blocklora.clip import crop_size, pixels
from blocklora.core.device import Compute
from blocklora.data import Source, open_for_model

__all__ = ["Reasons", "reasons", "reasons_for_files"]

_AT_ONCE = 16  # heat maps, which keep every token of the last layer


@dataclass(frozen=True)
class Reasons:
    """Why one image got its answer.

    Attributes:
        evidence: Classes, the strongest first, and how far each logit, divided by the temperature, is above the
            mean of all classes.
        nearest: Names of the nearest training images, their classes and cosines, the nearest first.
        heat: Rows of patches, from the top left: in [-1, 1], how much each speaks for the answer rather than the other
            classes. They cover the square that the model sees, the middle of the image. None where there are none.
        why_no_heat: Why there are none; None where there are.
    """

    evidence: tuple[tuple[str, float], ...]
    nearest: tuple[tuple[str, str, float], ...]
    heat: tuple[tuple[float, ...], ...] | None
    why_no_heat: str | None = None


def reasons(
    classifier: Classifier,
    features: Tensor,
    values: Callable[[slice], Tensor],
    compute: Compute,
    *,
    names: Sequence[str],
) -> list[Reasons]:
    """Say why images got their answers.

    Args:
        classifier: What answers.
        features: Features of the images, as ``Classifier.logits`` takes them (M).
        values: Returns the pixel values (M', 3, S, S) of some of the images; asked only where there are heat maps.
        compute: Where to compute.
        names: What to call the classes.

    Raises:
        RunError: The classifier keeps no training images.
    """
    if not len(features):
        return []
    labels = classifier.logits(features).argmax(dim=1).numpy()
    heats: list[tuple[tuple[float, ...], ...] | None] = [None] * len(features)
    why = why_no_heat_map(classifier)
    if not why:
        for start in range(0, len(features), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found = heat_maps(classifier, values(part).to(compute.device), labels[part], compute)
            heats[part] = [tuple(map(tuple, heat.round(2).tolist())) for heat in found]
    return [
        Reasons(
            evidence=tuple((names[c], value) for c, value in found.evidence),
            nearest=tuple((name, names[c], cosine) for name, c, cosine in found.nearest),
            heat=heat,
            why_no_heat=why,
        )
        for found, heat in zip(explain(classifier, features), heats, strict=True)
    ]


def reasons_for_files(
    classifier: Classifier,
    features: Tensor,
    sources: Sequence[Source],
    compute: Compute,
    *,
    names: Sequence[str],
) -> list[Reasons]:
    """Say why readable images (M) got their answers; they are opened again. See ``reasons``.

    Raises:
        RunError: The classifier keeps no training images.
        ImageError: An image cannot be read any more.
    """
    processor = classifier.base.processor

    def values(part: slice) -> Tensor:
        opened = (open_for_model(source, crop_size(processor)) for source in sources[part])
        return torch.stack([pixels(image, processor) for image in opened])

    return reasons(classifier, features, values, compute, names=names)
