"""What a fit leaves with its classifier, so that it can judge its own answers.

Axes: n = held-out images, M = training images, N = classes, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from blocklora.classifier import (
    Classifier,
    Evidence,
    FeatureStore,
    HeldOutAnswers,
    KnownImages,
    encode,
)
from blocklora.core.device import Compute
from blocklora.data import Example
from blocklora.methods.answers import HeldOut
from blocklora.metrics import UnknownStudy, strangeness, study_unknown, unlikeness
from blocklora.metrics.conformal import SCORES
from blocklora.metrics.unknown import ANY_COSINE, TOGETHER

__all__ = ["gather_evidence", "judged", "kept_images"]

_ROWS = 1024  # held-out images at a time


def judged(
    classifier: Classifier, val: Sequence[Example], compute: Compute, size: int, store: FeatureStore
) -> HeldOut:
    """Return what a classifier says of validation images."""
    images = [(example.image, example.source) for example in val]
    encoded = encode(classifier, images, compute, batch_size=size, store=store, zero_shot=True)
    labels = np.array([val[index].label for index in encoded.kept], dtype=np.int64)
    logits = classifier.logits(encoded.features).numpy()
    return HeldOut(logits, labels, "validation", np.zeros_like(labels), encoded.features)


def gather_evidence(
    classifier: Classifier,
    train: Sequence[Example],
    held_out: HeldOut | None,
    features: Tensor | None,
    compute: Compute,
    size: int,
    store: FeatureStore,
) -> Evidence:
    """Return what a fitted classifier keeps of the images.

    Args:
        classifier: With its temperature, on the device.
        train: Readable training images.
        held_out: What was said of images that were kept out of training.
        features: Unit features (M, D) of the training images, if they are known.
        compute: Where to compute.
        size: How many images are encoded at a time.
        store: Where features of the frozen model are kept.
    """
    kept = list(range(len(train)))
    if features is None:
        images = [(example.image, example.source) for example in train]
        encoded = encode(classifier, images, compute, batch_size=size, store=store)
        features, kept = encoded.features, encoded.kept
        if features.ndim == 3:  # the adapted ones, of a classifier that reads both
            features = features[:, 0]
    training = kept_images(features, [train[index] for index in kept])
    if held_out is None:
        return Evidence(training=training)
    answers, study = _judge(classifier, held_out, training)
    return Evidence(answers, training, study)


def kept_images(features: Tensor, train: Sequence[Example]) -> KnownImages:
    """Return what is kept of training images and their unit features (M, D)."""
    labels = np.array([example.label for example in train], dtype=np.int64)
    return KnownImages(features.to(torch.float16), labels, tuple(example.image for example in train))


def _judge(
    classifier: Classifier, held_out: HeldOut, training: KnownImages
) -> tuple[HeldOutAnswers, UnknownStudy | None]:
    """Return what of the held-out images is kept, a few numbers each, and how well unknown things are found.

    Nothing is known of the latter where fits with adapted towers of their own held training images out.
    """
    temperature, labels = classifier.temperature, held_out.labels
    own = training.features.float()  # of a tower that was not adapted also the base model's
    features = torch.stack([own, own], dim=1) if held_out.features is None else held_out.features  # (n, 2, D)
    nearest = _nearest(features[:, 0], held_out, training, len(classifier.class_names))  # (n, N)
    cosines = (features[:, 1] @ classifier.zero_shot_features.T).numpy()  # (n, N)
    # The fits that held training images out had adapted towers of their own, which are not kept. This one has learned
    # from these images, so how near they are to others in it tells nothing of new ones.
    learned = held_out.features is None and not classifier.is_base
    scores = unlikeness(
        held_out.logits,
        cosines,
        np.full(len(labels), ANY_COSINE) if learned else nearest.max(axis=1),
        temperature,
    )
    shares = softmax(held_out.logits / temperature, axis=1)  # (n, N)
    rows = np.arange(len(labels))
    answers = HeldOutAnswers(
        how=held_out.how,
        labels=labels,
        confidence=shares.max(axis=1),
        correct=shares.argmax(axis=1) == labels,
        strangeness={name: strangeness(held_out.logits, name)[rows, labels] for name in SCORES},
        unlikeness={name: scores[name] for name in TOGETHER},
        fold=held_out.fold,
        heads=held_out.heads,
    )
    if learned:
        return answers, None
    return answers, study_unknown(held_out.logits, cosines, nearest, labels, temperature)


def _nearest(
    features: Tensor, held_out: HeldOut, training: KnownImages, n_classes: int
) -> NDArray[np.float64]:
    """Return the largest cosine of held-out images (n, D) to training images of each class that they may know (n, N).

    An image of a fold knows those of other folds, and one that was left out by itself all others.
    """
    known, labels = training.features.float(), torch.from_numpy(training.labels)
    fold = held_out.fold if held_out.how == "folds" else np.arange(len(held_out.labels))
    found = []
    for start in range(0, len(features), _ROWS):
        cosines = features[start : start + _ROWS] @ known.T  # (rows, M)
        if held_out.how != "validation":
            own = torch.from_numpy(fold[start : start + _ROWS, None] == fold[None])
            cosines.masked_fill_(own, -1.0)
        best = torch.full((len(cosines), n_classes), -1.0)
        found.append(best.scatter_reduce(1, labels.expand(len(cosines), -1), cosines, "amax"))
    return torch.cat(found).double().numpy()
