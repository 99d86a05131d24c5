"""The exact cross-entropy of scaled cosines, also over a hundred thousand classes.

Axes: B = images, N = classes, n = classes of one part, D = the width of the shared space; of several ranks b = images
of this one, and N = classes of this one.

With many classes no matrix of images by classes is kept: classes come in parts, whose logits are added up in the
log-sum-exp and forgotten, and are computed again in backward. As Inf-CL does for contrastive learning (Cheng et al.,
Breaking the Memory Barrier, 2024, section 3.2); nothing is sampled and nothing is approximated.

Several ranks keep their classes to themselves and tell each other their images' features, which are few, as
insightface's partial FC does where it samples nothing (An et al., Killing Two Birds with One Stone, 2022, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocklora.core.ranks import ALONE, Ranks

__all__ = ["ALL_HERE", "CLASSES_AT_ONCE", "Shared", "cross_entropy_sum"]

CLASSES_AT_ONCE = 8192
"""Up to so many classes the logits of a batch are computed and kept as they are."""


@dataclass(frozen=True)
class Shared:
    """How ranks share images and classes.

    Attributes:
        ranks: The processes.
        sizes: How many images each of them has, b; together B.
        places: Of every class its place among those of this rank; -1 where another one has it.
    """

    ranks: Ranks
    sizes: tuple[int, ...]
    places: Tensor

    def all_images(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of all ranks' images (B, D), and where this rank has their classes (B,); -1: nowhere."""
        if self.ranks.count == 1:
            return images, labels
        every = self.ranks.gather(labels, self.sizes)
        return self.ranks.gather(images, self.sizes), self.places.to(labels.device)[every]

    def own(self, rows: Tensor) -> Tensor:
        """Return those of the rows (B, ...) that belong to this rank's images (b, ...)."""
        if self.ranks.count == 1:
            return rows
        return torch.split(rows, list(self.sizes))[self.ranks.rank]


ALL_HERE = Shared(ALONE, (), torch.empty(0))
"""One process has all images and all classes."""


def cross_entropy_sum(
    images: Tensor,
    classes: Tensor,
    scale: Tensor,
    labels: Tensor,
    *,
    at_once: int = CLASSES_AT_ONCE,
    shared: Shared = ALL_HERE,
) -> Tensor:
    """Return the cross-entropy of scaled cosines, summed over the images.

    Several ranks call this together, and also the backward of what it returns, with the same gradient. Each gets the
    part of its own images, and the gradients of all images in its classes and of all classes in its images.

    Args:
        images: Unit features (b, D); either all ranks want their gradient, or none.
        classes: Unit features (N, D).
        scale: What cosines are multiplied by; it gets no gradient.
        labels: (b,), 0..N-1, or numbers of all classes where several ranks have them.
        at_once: n. With more classes than that the logits come in parts and are not kept.
        shared: Who has which images and classes.

    Returns:
        A number, differentiable in ``images`` and ``classes``.
    """
    if len(classes) <= at_once and shared.ranks.count == 1:
        return F.cross_entropy(scale * images @ classes.T, labels, reduction="sum")
    total: Tensor = _InParts.apply(images, classes, scale, labels, at_once, shared)  # type: ignore[no-untyped-call]
    return total


class _InParts(torch.autograd.Function):
    """``cross_entropy_sum``.

    Kept are all images, classes, and of each image its largest logit m and the logarithm of the sum of exp(logit - m).
    These two stay apart: their sum would lose what an image that is sure has left in its last digits.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, classes: Tensor, scale: Tensor, labels: Tensor, at_once: int, shared: Shared
    ) -> Tensor:
        images, labels = shared.all_images(images, labels)  # (B, D), (B,)
        scaled = scale * images
        most, sums, own = (images.new_full((len(images),), start) for start in (-torch.inf, 0.0, 0.0))  # (B,)
        for start, part in _parts(classes, at_once):
            logits = scaled @ part.T  # (B, n)
            before, most = most, torch.maximum(most, logits.amax(1))
            rows, places = _own(labels, start, len(part))
            own[rows] = logits[rows, places]
            sums = sums * (before - most).exp() + logits.sub_(most[:, None]).exp_().sum(1)
        here, most = most, shared.ranks.most(most.clone())
        sums, own = shared.ranks.sum(torch.stack([sums * (here - most).exp(), own]))
        logs = sums.log()
        ctx.save_for_backward(images, classes, scale, labels, most, logs)
        ctx.at_once, ctx.shared = at_once, shared
        return shared.own(most - own + logs).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        images, classes, scale, labels, most, logs = ctx.saved_tensors
        need_images, need_classes = ctx.needs_input_grad[:2]
        scaled, factor = scale * images, grad * scale
        grad_images = torch.zeros_like(images) if need_images else None
        grad_classes = torch.empty_like(classes) if need_classes else None
        for start, part in _parts(classes, ctx.at_once):
            shares = (scaled @ part.T).sub_(most[:, None]).sub_(logs[:, None]).exp_()  # (B, n): the softmax
            shares[_own(labels, start, len(part))] -= 1
            if grad_images is not None:
                grad_images.addmm_(shares, part)
            if grad_classes is not None:
                torch.mm(shares.T, images, out=grad_classes[start : start + len(part)])
        if grad_images is not None:
            grad_images = ctx.shared.own(ctx.shared.ranks.sum(grad_images))
        found = [value if value is None else value.mul_(factor) for value in (grad_images, grad_classes)]
        return *found, None, None, None, None


def _parts(classes: Tensor, at_once: int) -> Iterator[tuple[int, Tensor]]:
    """Yield where each part begins, and its features (n, D)."""
    for start in range(0, len(classes), at_once):
        yield start, classes[start : start + at_once]


def _own(labels: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Return which images have their class in a part, and its place there."""
    places = labels - start
    rows = ((places >= 0) & (places < size)).nonzero().squeeze(1)
    return rows, places[rows]
