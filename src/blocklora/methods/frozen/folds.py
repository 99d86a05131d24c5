"""Cross-validation over the training images, for methods that choose a setting where there are no validation images.

Axes: M = training images, m = those held out of one fit, N = classes, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.answers import CROSS_VALIDATED, HeldOut
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.method import Job
from blocklora.metrics import choose_candidate

__all__ = ["choose_value", "folds", "out_of_fold_logits"]

_MOST_FOLDS = 5

_Fold = tuple[Tensor, Tensor]  # indices of the images to fit to, and of those held out
_Value = TypeVar("_Value", float, tuple[float, float])


def folds(labels: Tensor, most: int = _MOST_FOLDS) -> list[_Fold]:
    """Cut images into parts with the same share of every class, and hold each part out once.

    Args:
        labels: Of the images (M,); every class from 0 to the largest label has one or more.
        most: The most parts. There are no more than the smallest class has images, so every class is in every fit.

    Returns:
        Of every fold the indices to fit to and those held out (m,); the same for the same labels. Nothing where a class
        has one image alone: it cannot be both fitted to and held out.
    """
    parts = min(most, int(torch.bincount(labels).min()))
    if parts < 2:
        return []
    found = StratifiedKFold(parts).split(np.zeros(len(labels)), labels.numpy())
    return [(torch.from_numpy(fit_to), torch.from_numpy(held_out)) for fit_to, held_out in found]


def out_of_fold_logits(parts: Sequence[_Fold], logits: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return logits (M, N) of the training images, each by the fit that did not see it.

    Args:
        parts: What ``folds`` returned; at least one.
        logits: Given the indices to fit to and those held out (m,), returns the logits (m, N) of the latter.
    """
    found = torch.cat([logits(fit_to, held_out) for fit_to, held_out in parts])
    return found[torch.cat([held_out for _, held_out in parts]).argsort()]


def choose_value(
    job: Job,
    values: Sequence[_Value],
    *,
    beforehand: _Value,
    logits: Callable[[Tensor, _Value], Tensor],
    held_out: Callable[[_Value], Tensor],
    fold_head: Callable[[_Value, Tensor], Head] | None = None,
    reason: str = CROSS_VALIDATED,
) -> tuple[_Value, Choice, HeldOut | None]:
    """Choose a setting by validation images; without them by training images that were held out.

    The highest accuracy wins, of equals the lowest log loss, then the first; see ``choose_candidate``.

    Args:
        job: Its validation images choose, if it has any.
        values: One or more.
        beforehand: The value to take where a class has one training image, and there are no validation images.
        logits: Given features (m, D) and a value, returns logits (m, N) of a fit to all training images.
        held_out: Given a value, returns logits (M, N) of the training images, each image's by a fit that did not see
            it. It is only called where every class has two images or more.
        fold_head: Given a value and the indices to fit to, returns what predicts; None to leave out one at a time.
        reason: What ``held_out`` does, in words.

    Returns:
        The value, how it was chosen, and what was said with it of the held-out images, if they chose it.
    """
    if job.task.val:
        features, labels = frozen_features(job, job.task.val)[0], labels_of(job.task.val).numpy()
        best = choose_candidate((logits(features, value).numpy() for value in values), labels)
        reason = ""
    else:
        labels = labels_of(job.task.train).numpy()
        if int(np.bincount(labels).min()) < 2:
            return (
                beforehand,
                Choice(beforehand, "fixed", "no validation images, and a class of one image to choose it by"),
                None,
            )
        best = choose_candidate((held_out(value).numpy() for value in values), labels)
    value = values[best.index]
    choice = Choice(
        value,
        "validation",
        reason,
        n_images=len(labels),
        candidates=len(values),
        score=best.accuracy,
        score_name="accuracy",
    )
    if job.task.val:
        return value, choice, None
    said = HeldOut(held_out(value).numpy(), labels, "leave-one-out", np.zeros(len(labels), dtype=np.int64))
    return value, choice, said if fold_head is None else _with_heads(said, partial(fold_head, value))


def _with_heads(said: HeldOut, head: Callable[[Tensor], Head]) -> HeldOut:
    """Add what predicted for each fold."""
    parts = folds(torch.from_numpy(said.labels))
    fold = np.zeros(len(said.labels), dtype=np.int64)
    for k, (_, held_out) in enumerate(parts):
        fold[held_out.numpy()] = k
    return replace(said, how="folds", fold=fold, heads=tuple(head(fit_to) for fit_to, _ in parts))
