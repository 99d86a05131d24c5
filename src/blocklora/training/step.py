"""One training step under a plan: the loss, and its gradient in the model's trainable parameters.

Axes: B = images of a batch, N = classes, D = the width of the shared space.

The two towers meet only in the logits. So the class features are computed first; then images, in micro-batches, go
forward and backward against them; and at last the gradient that has gathered at the class features goes back through
the text tower. With a plan that cuts the classes into several passes, the first pass keeps nothing, and each is run
again, with the same dropout masks, when its gradient is there: memory is then bounded whatever N is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.clip.lean import Keep
from blocklora.clip.towers import Towers
from blocklora.core.seeds import Stream, torch_seed

__all__ = ["ClassFeatures", "Plan", "gradient"]

_IMAGES, _TEXTS = 0, 1
Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class Plan:
    """How a step is cut to fit into memory.

    Attributes:
        images: What the image tower keeps for backward.
        texts: What the text tower keeps.
        micro_batch: Images that go through at a time; None: the whole batch.
        chunk: Classes that go through at a time, twice; None: all, once.
    """

    images: Keep = "all"
    texts: Keep = "all"
    micro_batch: int | None = None
    chunk: int | None = None

    def __str__(self) -> str:
        keeps = {"all": "keeps everything", "no-mlp": "recomputes its MLP", "inputs": "is recomputed"}
        if self.images == self.texts:
            parts = [f"each block {keeps[self.images]}"]
        else:
            parts = [f"images: each block {keeps[self.images]}", f"texts: each block {keeps[self.texts]}"]
        if self.micro_batch:
            parts.append(f"images in micro-batches of {self.micro_batch}")
        if self.chunk:
            parts.append(f"classes in two passes, {self.chunk} at a time")
        return ", ".join(parts)


class ClassFeatures:
    """The features of all class prompts under a plan; those of a text tower that is not trained are computed once.

    Args:
        towers: The model.
        tokens: Token ids of the class prompts (N, L), on the CPU.
        trained: Whether the text tower is trained.
        plan: The plan.
    """

    def __init__(self, towers: Towers, tokens: Tensor, *, trained: bool, plan: Plan) -> None:
        self._towers, self._keep, self.trained = towers, plan.texts, trained
        self._passes = towers.passes(tokens, plan.chunk)
        self._order = torch.cat([rows for rows, _ in self._passes]).argsort()
        self._fixed = None if trained else self._run([0] * len(self._passes), grad=False)

    def at(self, seed: int, step: int) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return the class features of a step (N, D), and what takes their gradient back through the tower."""
        if self._fixed is not None:
            return self._fixed, lambda gradient: None
        seeds = [torch_seed(seed, Stream.DROPOUT, step, _TEXTS, place) for place in range(len(self._passes))]
        several = len(self._passes) > 1
        found = self._run(seeds, grad=not several)
        if not several:
            return found, partial(torch.autograd.backward, found)

        def again(gradient: Tensor) -> None:
            for (rows, one_pass), seed_ in zip(self._passes, seeds, strict=True):
                part = self._towers.texts(one_pass, seed=seed_, keep=self._keep)
                torch.autograd.backward(part, gradient[rows.to(gradient.device)])

        return found, again

    def _run(self, seeds: list[int], *, grad: bool) -> Tensor:
        """Run all passes, and put their features into the order of the classes (N, D)."""
        with torch.set_grad_enabled(grad):
            parts = [
                self._towers.texts(one_pass, seed=seed, keep=self._keep)
                for (_, one_pass), seed in zip(self._passes, seeds, strict=True)
            ]
            return torch.cat(parts)[self._order.to(parts[0].device)]


def gradient(
    towers: Towers,
    inputs: Tensor,
    labels: Tensor,
    text: ClassFeatures,
    scale: Tensor,
    plan: Plan,
    backward: Backward,
    *,
    seed: int,
    step: int,
) -> Tensor:
    """Add the gradient of a batch's mean cross-entropy to the trainable parameters.

    Args:
        towers: The model, in training mode.
        inputs: Pixel values (B, 3, S, S); rows (B, L, d) that go into the first trained block; or unit features (B, D)
            of an image tower that is not trained.
        labels: (B,).
        text: The classes.
        scale: What cosines are multiplied by.
        plan: How the step is cut.
        backward: Takes a loss, and back-propagates it (scaled, where the precision needs that).
        seed: The run's seed.
        step: The step's number; with ``seed`` it decides the dropout masks.

    Returns:
        The loss, detached.
    """
    features, send_back = text.at(seed, step)
    classes = features.detach().requires_grad_(text.trained)
    total = torch.zeros((), device=classes.device, dtype=classes.dtype)
    size = plan.micro_batch or len(inputs)
    for place, (part, wanted) in enumerate(
        zip(torch.split(inputs, size), torch.split(labels, size), strict=True)
    ):
        images = part
        if part.dim() > 2:
            images = towers.images(
                part, seed=torch_seed(seed, Stream.DROPOUT, step, _IMAGES, place), keep=plan.images
            )
        logits = scale * images @ classes.T  # (B, N)
        loss = F.cross_entropy(logits, wanted, reduction="sum") / len(inputs)
        backward(loss)
        total += loss.detach()
    if classes.grad is not None:
        send_back(classes.grad)
    return total
