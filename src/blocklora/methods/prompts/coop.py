"""CoOp: the words before the class name are learned, the same for all classes (Zhou et al., 2022).

Recipe (KaiyangZhou/CoOp): 16 vectors, random at first, then the class name and a full stop; SGD 2e-3, batches of 32,
50 / 100 / 200 epochs for 1 / 2 to 4 / more shots (published for ImageNet: 50). Both towers are frozen.
Deviations: those of all prompt learners here, see ``learned_prompts``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import TextChange
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.prompts.learned_prompts import (
    FAMILIES,
    epochs_of,
    frozen_images,
    start_context,
    train_prompts,
)
from blocklora.methods.settings import need_positive, need_whole
from blocklora.training.images import Augment

__all__ = ["METHOD", "CoOpSettings", "Gradients", "fit", "learn"]

Gradients = Callable[[torch.nn.Parameter, Tensor, Tensor, Tensor], Tensor]
"""Given the vectors, unit image features (B, D), unit class features (N, D) and labels (B,): fills ``.grad`` and
returns the loss."""


@dataclass(frozen=True)
class CoOpSettings:
    """How to learn the prompts.

    Attributes:
        n_context: How many vectors; with ``words`` no more than they have tokens.
        words: What the vectors start from; empty is a random start.
        lr: Learning rate of SGD.
        batch_size: Images a step.
        epochs: Times that every image is seen; None is 50 for one shot, 100 for 2 to 4, 200 for more.
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class. With ``none`` the image tower runs only once over each image.
    """

    n_context: int = 16
    words: str = ""
    lr: float = 2e-3
    batch_size: int = 32
    epochs: int | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "n_context", "batch_size", "epochs")
        need_positive(self, "lr")


def fit(job: Job, settings: CoOpSettings) -> FitResult:
    """Learn the prompts."""

    def gradients(context: torch.nn.Parameter, images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy((job.scale * images @ classes.T).float(), labels)
        job.compute.backward(loss)
        return loss

    return learn(job, settings, gradients, "CoOp")


def learn(job: Job, settings: CoOpSettings, gradients: Gradients, recipe: str) -> FitResult:
    """Learn the words before the class names, by gradients that the caller computes."""
    prompts, start = start_context(job, settings.words, settings.n_context)
    context = torch.nn.Parameter(start)  # (P, W)
    batches, encode = frozen_images(job, settings.batch_size, settings.augment)

    def step_gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        with job.compute.autocast():
            images, classes = encode(inputs), prompts.features(context)
        return gradients(context, images.float(), classes.float(), labels)

    curve = train_prompts(
        job,
        {"context": context},
        step_gradients,
        batches,
        epochs=epochs_of(job.task, settings.epochs),
        batch_size=settings.batch_size,
        lr=settings.lr,
    )
    with torch.no_grad(), job.compute.autocast():
        classes = prompts.features(context)
    text = TextChange(context=context.detach(), words=settings.words)
    return FitResult(
        job.classifier(classes.float(), text=text),
        context.numel(),
        last_step(len(curve.losses), recipe),
        curve,
        notes=prompts.notes,
    )


METHOD = Method(fit, CoOpSettings, open=True, families=FAMILIES)
