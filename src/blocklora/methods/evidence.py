"""What a fit leaves with its classifier, so that it can judge its own answers.

Axes: n = held-out images, M = training images, N = classes, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
from blocklora.methods.method import HeldOut
from blocklora.metrics import strangeness
from blocklora.metrics.conformal import SCORES

__all__ = ["gather_evidence", "judged"]


def judged(
    classifier: Classifier, val: Sequence[Example], compute: Compute, size: int, store: FeatureStore
) -> HeldOut:
    """Return what a classifier says of validation images."""
    images = [(example.image, example.source) for example in val]
    encoded = encode(classifier, images, compute, batch_size=size, store=store, zero_shot=True)
    labels = np.array([val[index].label for index in encoded.kept], dtype=np.int64)
    logits = classifier.logits(encoded.features[:, 0]).numpy()
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
    training = KnownImages(
        features.to(torch.float16),
        np.array([train[index].label for index in kept], dtype=np.int64),
        tuple(train[index].image for index in kept),
    )
    answers = None if held_out is None else _answers(held_out, classifier.temperature)
    return Evidence(answers, training)


def _answers(held_out: HeldOut, temperature: float) -> HeldOutAnswers:
    """Return what of the held-out images is kept: a few numbers each."""
    shares = softmax(held_out.logits / temperature, axis=1)  # (n, N)
    rows = np.arange(len(held_out.labels))
    return HeldOutAnswers(
        how=held_out.how,
        labels=held_out.labels,
        confidence=shares.max(axis=1),
        correct=shares.argmax(axis=1) == held_out.labels,
        strangeness={name: strangeness(held_out.logits, name)[rows, held_out.labels] for name in SCORES},
        fold=held_out.fold,
        heads=held_out.heads,
    )
