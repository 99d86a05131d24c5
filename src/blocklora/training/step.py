"""One training step under a plan: the loss, and its gradient in the model's trainable parameters.

Axes: B = images of a batch, N = classes, D = the width of the shared space.

The two towers meet only in the logits. So the class features are computed first; then images, in micro-batches, go
forward and backward against them; and at last the gradient that has gathered at the class features goes back through
the text tower. With a plan that cuts the classes into several passes, the first pass keeps nothing, and each is run
again, with the same dropout masks, when its gradient is there: memory is then bounded whatever N is. With many classes
the logits come in parts as well (``softmax``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklora.clip.lean import Keep
from blocklora.clip.towers import Towers
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.seeds import Stream, torch_seed
from blocklora.training.distributed import own_passes, pieces
from blocklora.training.softmax import cross_entropy_sum

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

    Several ranks share the classes: each computes the features of its own, and takes their gradient back.

    Args:
        towers: The model; where several ranks share the classes, a lean one.
        tokens: Token ids of the class prompts (N, L), on the CPU.
        trained: Whether the text tower is trained.
        plan: The plan.
        ranks: The processes that share the classes.
    """

    def __init__(
        self, towers: Towers, tokens: Tensor, *, trained: bool, plan: Plan, ranks: Ranks = ALONE
    ) -> None:
        self._towers, self._keep, self.trained, self._ranks = towers, plan.texts, trained, ranks
        passes = towers.passes(tokens, plan.chunk)
        if ranks.count == 1:
            self._own = [(place, rows, one_pass) for place, (rows, one_pass) in enumerate(passes)]
            self._sizes, order = [len(tokens)], torch.cat([rows for rows, _ in passes])
        else:
            self._own, self._sizes, order = own_passes(passes, ranks)
        self._order = order.argsort()
        self._fixed = None if trained else self._joined(self._run([0] * len(self._own), grad=False))

    def at(self, seed: int, step: int) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return the class features of a step (N, D), and what takes their gradient back through the tower.

        The gradient is that of this rank's images; it is added up over the ranks, in place.
        """
        if self._fixed is not None:
            return self._fixed, lambda gradient: None
        seeds = [torch_seed(seed, Stream.DROPOUT, step, _TEXTS, place) for place, _, _ in self._own]
        once = len(self._own) == 1
        parts = self._run(seeds, grad=once)
        found, kept = self._joined(parts), parts if once else None

        def send_back(gradient: Tensor) -> None:
            gradient = self._ranks.sum(gradient)
            for (_, rows, one_pass), seed_ in zip(self._own, seeds, strict=True):
                part = kept[0] if kept else self._towers.texts(one_pass, seed=seed_, keep=self._keep)
                torch.autograd.backward(part, gradient[rows.to(gradient.device)])

        return found, send_back

    def _run(self, seeds: list[int], *, grad: bool) -> list[Tensor]:
        """Run this rank's passes."""
        with torch.set_grad_enabled(grad):
            return [
                self._towers.texts(one_pass, seed=seed, keep=self._keep)
                for (_, _, one_pass), seed in zip(self._own, seeds, strict=True)
            ]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Gather the features of all ranks, and put them into the order of the classes (N, D); without a graph."""
        own = torch.cat([part.detach() for part in parts]) if parts else self._no_features()
        return self._ranks.gather(own, self._sizes)[self._order.to(own.device)]

    def _no_features(self) -> Tensor:
        """Return the features (0, D) of a rank that has no class of its own."""
        weight: Tensor = self._towers.model.text_projection.weight
        return weight.new_empty(0, len(weight))


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
    batch: tuple[int, int] | None = None,
) -> Tensor:
    """Add the gradient of a batch's mean cross-entropy to the trainable parameters.

    Of several ranks each is given its own images, and adds what these and its own classes contribute.

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
        batch: The place of the first of these images in the batch, and how many that has; None: they are all of it.

    Returns:
        The loss, detached; of several ranks this one's part of it.
    """
    features, send_back = text.at(seed, step)
    classes = features.requires_grad_(text.trained)
    total = torch.zeros((), device=classes.device, dtype=classes.dtype)
    first, of = batch or (0, len(inputs))
    size = plan.micro_batch or of
    own = list(pieces([min(size, of - start) for start in range(0, of, size)], first, first + len(inputs)))
    counts = [piece.last - piece.first for piece in own]
    for piece, part, wanted in zip(
        own, torch.split(inputs, counts), torch.split(labels, counts), strict=True
    ):
        images = part
        if part.dim() > 2:
            images = towers.images(
                part,
                seed=torch_seed(seed, Stream.DROPOUT, step, _IMAGES, piece.place),
                keep=plan.images,
                part=None if piece.whole else (piece.first, piece.of),
            )
        loss = cross_entropy_sum(images, classes, scale, wanted) / of
        backward(loss)
        total += loss.detach()
    if text.trained:
        send_back(torch.zeros_like(classes) if classes.grad is None else classes.grad)
    return total
