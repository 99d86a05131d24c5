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

from blocklora.classifier.text_side import TextSide
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.prompts.learned_prompts import epochs_of, frozen_pictures, start_context, train_prompts
from blocklora.methods.settings import need_positive, need_whole
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.training import Checkpoint, OnStep
from blocklora.training.pictures import Augment

__all__ = ["Gradients", "Settings", "fit", "learn"]

Gradients = Callable[[torch.nn.Parameter, Tensor, Tensor, Tensor], Tensor]
"""Given the vectors, unit image features (B, D), unit class features (N, D) and labels (B,): fills ``.grad`` and
returns the loss."""


@dataclass(frozen=True)
class Settings:
    """How to learn the prompts.

    Attributes:
        n_context: How many vectors; with ``words`` no more than they have tokens.
        words: What the vectors start from; empty is a random start.
        lr: Learning rate of SGD.
        batch_size: Pictures a step.
        epochs: Times that every picture is seen; None is 50 for one shot, 100 for 2 to 4, 200 for more.
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class. With ``none`` the image tower runs only once over each picture.
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


def fit(
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Learn the prompts; see ``Method``."""
    scale = clip.model.logit_scale.detach().exp()

    def gradients(context: torch.nn.Parameter, images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy((scale * images @ classes.T).float(), labels)
        compute.backward(loss)
        return loss

    return learn(gradients, "CoOp", task, clip, options, seed, compute, checkpoint, on_step)


def learn(
    gradients: Gradients,
    recipe: str,
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    checkpoint: Checkpoint | None,
    on_step: OnStep | None,
) -> Fitted:
    """Learn the words before the class names, by gradients that the caller computes."""
    prompts, start = start_context(task, clip, options.words, options.n_context, seed)
    context = torch.nn.Parameter(start)  # (P, W)
    batches, encode = frozen_pictures(
        task, clip, compute, batch_size=options.batch_size, augment=options.augment, seed=seed
    )

    def step_gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        with compute.autocast():
            images, classes = encode(inputs), prompts.features(context)
        return gradients(context, images.float(), classes.float(), labels)

    curve = train_prompts(
        {"context": context},
        step_gradients,
        batches,
        task,
        compute,
        epochs=epochs_of(task, options.epochs),
        batch_size=options.batch_size,
        lr=options.lr,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    with torch.no_grad(), compute.autocast():
        classes = prompts.features(context)
    return Fitted(
        model=clip.model,
        class_features=classes.float().cpu(),
        trainable_parameters=context.numel(),
        training=curve,
        selection=fixed_beforehand(len(curve.losses), recipe),
        notes=prompts.notes,
        text=TextSide(context=context.detach(), words=options.words),
    )
