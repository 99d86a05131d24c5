"""Sets of classes that hold the true one as often as was asked for. M images, N classes, D the width of a feature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier.classifier import Classifier, portions
from blocklora.classifier.evidence import HeldOutAnswers
from blocklora.core.errors import RunError
from blocklora.metrics import (
    CalibrationPart,
    SetScore,
    fewest_images,
    guaranteed_coverage,
    prediction_sets,
    strangeness,
)

__all__ = ["class_sets", "held_out_answers", "proven_coverage"]


def class_sets(
    classifier: Classifier,
    features: Tensor,
    coverage: float = 0.9,
    *,
    score: SetScore = "lac",
    by_class: bool = False,
) -> NDArray[np.bool_]:
    """Return which classes are in the set of each image (M, N).

    Args:
        classifier: What answers.
        features: Image features, as ``Classifier.logits`` takes them.
        coverage: How often the true class should be in the set, strictly between 0 and 1.
        score: How strange a class is for an image; see ``metrics.SCORES``.
        by_class: Whether the coverage is meant for every class that has enough held-out images.

    Raises:
        ConfigError: The coverage or the score is not known.
        RunError: The classifier keeps no answers to held-out images.
    """
    held_out = held_out_answers(classifier)
    found = [
        _sets(classifier, held_out, part, coverage, score, by_class)
        for part in portions(features, len(classifier.class_names))
    ]
    return np.concatenate(found)


def _sets(
    classifier: Classifier,
    held_out: HeldOutAnswers,
    features: Tensor,
    coverage: float,
    score: SetScore,
    by_class: bool,
) -> NDArray[np.bool_]:
    """Return what ``class_sets`` does, for a portion of the images."""
    heads = held_out.heads or (classifier.head,)
    if features.ndim == 3 and not classifier.reads_both:
        features = features[:, 0]
    known = held_out.strangeness[score] if score in held_out.strangeness else np.empty(0)
    parts = [
        CalibrationPart(
            strangeness(head.logits(features).numpy() if len(features) else _nothing(classifier), score),
            known[held_out.fold == k],
            held_out.labels[held_out.fold == k],
        )
        for k, head in enumerate(heads)
    ]
    return prediction_sets(parts, coverage, by_class=by_class)


def held_out_answers(classifier: Classifier) -> HeldOutAnswers:
    """Return the classifier's answers to held-out images.

    Raises:
        RunError: It keeps none; the message says what to do.
    """
    found = classifier.evidence.held_out
    if found is None:
        raise RunError(
            "this classifier keeps no answers to images that were kept out of training, so nothing can be said about "
            "sets of classes: fit it again with validation images (a folder 'validation' beside 'train'), or without "
            "them by a method that judges each training image by a fit that has not seen it: auto, linear-probe, "
            "gda, prototypes, proker or block-lora-gda, with two images a class or more."
        )
    return found


def proven_coverage(held_out: HeldOutAnswers, coverage: float) -> float | None:
    """Return the coverage that is proven of sets for images like the held-out ones; None where nothing is.

    Nothing is proven of images that were left out one at a time, as their classifiers are not kept; and with too few
    images every class is in every set.
    """
    n = len(held_out.labels)
    if n < fewest_images(coverage) or held_out.how == "leave-one-out":
        return None
    return guaranteed_coverage(n, coverage, max(1, len(held_out.heads))) or None


def _nothing(classifier: Classifier) -> NDArray[np.float64]:
    return np.empty((0, len(classifier.class_names)))
