"""Batches of features, and the epoch that is kept.

Axes: V = passes over the images, M = images, N = classes, D = the width of the shared space, B = a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from blocklora.core.choices import Choice
from blocklora.core.seeds import Stream, generator
from blocklora.methods.frozen.features import accuracy, labels_of
from blocklora.methods.method import Job

__all__ = ["FeatureBatches", "Keeper", "training_batches"]


class FeatureBatches:
    """Batches of features, by step; an epoch shows every image once.

    Args:
        features: (V, M, D).
        labels: (M,).
        batch_size: The largest B.
        seed: Where the order comes from.
        draw: ``turns``: epoch e shows pass e modulo V of every image; ``mixed``: M of all V x M features, drawn
            anew every epoch.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int,
        draw: Literal["turns", "mixed"] = "turns",
    ) -> None:
        self._features, self._labels = features, labels
        self._batch_size, self._seed, self._draw = min(batch_size, len(labels)), seed, draw

    @property
    def an_epoch(self) -> int:
        """How many steps an epoch has."""
        return -(-len(self._labels) // self._batch_size)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and labels (B,) of a step, counted from 0."""
        passes, images = self._features.shape[:2]
        epoch, number = divmod(step, self.an_epoch)
        draw = generator(self._seed, Stream.FEATURE_ORDER, epoch)
        if self._draw == "mixed":
            turn, image = np.divmod(draw.permutation(passes * images)[:images], images)
        else:
            turn, image = np.full(images, epoch % passes), draw.permutation(images)
        chosen = slice(number * self._batch_size, (number + 1) * self._batch_size)
        index = torch.from_numpy(image[chosen])
        return self._features[torch.from_numpy(turn[chosen]), index], self._labels[index]


def training_batches(
    job: Job, features: Tensor, batch_size: int, *, draw: Literal["turns", "mixed"] = "turns"
) -> FeatureBatches:
    """Return batches of the training images' features (V, M, D)."""
    return FeatureBatches(
        features, labels_of(job.task.train), batch_size=batch_size, seed=job.seed, draw=draw
    )


class Keeper:
    """Keeps the epoch that is best on validation images, the later one of equals; without them the last epoch.

    Args:
        tensors: What training changes.
        logits: Turns features (M, D) into logits (M, N) with these tensors as they are.
        features: Of the validation images (M, D); empty where there are none.
        labels: Of the validation images (M,).
        an_epoch: How many steps an epoch has.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        logits: Callable[[Tensor], Tensor],
        features: Tensor,
        labels: Tensor,
        *,
        an_epoch: int,
    ) -> None:
        self._tensors, self._logits, self._an_epoch = tensors, logits, an_epoch
        self._features, self._labels = features, labels
        self._best, self._epoch, self._kept = -1.0, 0, [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Look at the validation images where an epoch ends; ``minimise`` calls it."""
        if not len(self._labels) or (step + 1) % self._an_epoch:
            return
        score = accuracy(self._logits(self._features), self._labels)
        if score >= self._best:
            self._best, self._epoch = score, (step + 1) // self._an_epoch
            self._kept = [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def put_back(self, epochs: int) -> Choice:
        """Give the tensors the values of the kept epoch, and return which it is."""
        if not len(self._labels):
            return Choice(epochs, "fixed", "the last epoch: there are no validation images to choose by")
        for tensor, kept in zip(self._tensors, self._kept, strict=True):
            tensor.copy_(kept)
        return Choice(
            self._epoch,
            "validation",
            "the latest of the best epochs",
            n_images=len(self._labels),
            candidates=epochs,
            score=self._best,
            score_name="accuracy",
        )
