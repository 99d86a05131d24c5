"""One training step under a plan: the loss, and its gradient in the model's trainable parameters.

Axes: B = images of a batch, N = classes, D = the width of the shared space; of several ranks those of this one.

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
from blocklora.clip.towers import Towers, trains
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.seeds import Stream, torch_seed
from blocklora.training.distributed import Piece, own_passes, own_pieces
from blocklora.training.softmax import Shared, cross_entropy_sum

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
    """The features of class prompts under a plan; those of a text tower that is not trained are computed once.

    Several ranks share the classes: each has the features of its own, and takes their gradient back.

    Args:
        towers: The model; where several ranks share the classes, a lean one.
        tokens: Token ids of all class prompts (., L), on the CPU.
        trained: Whether the text tower is trained.
        plan: The plan.
        ranks: The processes that share the classes.

    Attributes:
        trained: Whether the text tower is trained.
        ranks: The processes.
        places: Of every class its place among the features; -1 where another rank has it.
    """

    def __init__(
        self, towers: Towers, tokens: Tensor, *, trained: bool, plan: Plan, ranks: Ranks = ALONE
    ) -> None:
        self._towers, self._keep, self.trained, self.ranks = towers, plan.texts, trained, ranks
        self._own = own_passes(towers.passes(tokens, plan.chunk), ranks)
        classes = torch.cat([torch.empty(0, dtype=torch.int64), *(rows for _, rows, _ in self._own)])
        self._order = classes.argsort()
        self.places = torch.full((len(tokens),), -1)
        self.places[classes[self._order]] = torch.arange(len(classes))
        self._fixed = None if trained else self._joined(self._run([0] * len(self._own), grad=False))

    def at(self, seed: int, step: int) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return the class features of a step (N, D), and what takes their gradient back through the tower."""
        if self._fixed is not None:
            return self._fixed, lambda gradient: None
        seeds = [torch_seed(seed, Stream.DROPOUT, step, _TEXTS, place) for place, _, _ in self._own]
        once = len(self._own) == 1
        parts = self._run(seeds, grad=once)
        found, kept = self._joined(parts), parts if once else None

        def send_back(gradient: Tensor) -> None:
            for (_, rows, one_pass), seed_ in zip(self._own, seeds, strict=True):
                part = kept[0] if kept else self._towers.texts(one_pass, seed=seed_, keep=self._keep)
                torch.autograd.backward(part, gradient[self.places[rows].to(gradient.device)])

        return found, send_back

    def _run(self, seeds: list[int], *, grad: bool) -> list[Tensor]:
        """Run this rank's passes."""
        with torch.set_grad_enabled(grad):
            return [
                self._towers.texts(one_pass, seed=seed, keep=self._keep)
                for (_, _, one_pass), seed in zip(self._own, seeds, strict=True)
            ]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Put the features into the order of the classes (N, D); without a graph."""
        own = torch.cat([part.detach() for part in parts]) if parts else _no_features(self._towers)
        return own[self._order.to(own.device)]


def _no_features(towers: Towers) -> Tensor:
    """Return the features (0, D) of a rank that has no class, or no image, of its own."""
    weight: Tensor = towers.model.text_projection.weight
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
    of: int | None = None,
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
        of: How many images the batch has, on all ranks; None: these are all.

    Returns:
        The loss, detached; of several ranks this one's part of it.
    """
    features, send_back = text.at(seed, step)
    classes = features.requires_grad_(text.trained)
    total = torch.zeros((), device=classes.device, dtype=classes.dtype)
    of = of or len(inputs)
    for piece, sizes in own_pieces(of, plan.micro_batch or of, text.ranks):
        count = sizes[text.ranks.rank]
        images, inputs = inputs[:count], inputs[count:]
        wanted, labels = labels[:count], labels[count:]
        if images.dim() > 2:
            images = _image_features(towers, images, piece, plan, (seed, step))
        shared = Shared(text.ranks, sizes, text.places)
        loss = cross_entropy_sum(images, classes, scale, wanted, shared=shared) / of
        backward(loss)
        total += loss.detach()
    if text.trained:
        send_back(torch.zeros_like(classes) if classes.grad is None else classes.grad)
    return total


def _image_features(
    towers: Towers, inputs: Tensor, piece: Piece | None, plan: Plan, when: tuple[int, int]
) -> Tensor:
    """Return the features of a piece of a batch (B, D); of no images, what other ranks' gradients can go through."""
    if piece is None:
        return _no_features(towers).requires_grad_(trains(towers.model.vision_model))
    return towers.images(
        inputs,
        seed=torch_seed(when[0], Stream.DROPOUT, when[1], _IMAGES, piece.place),
        keep=plan.images,
        part=None if piece.whole else (piece.first, piece.of),
    )
