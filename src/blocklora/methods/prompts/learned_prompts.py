"""What prompt learners share: where their vectors start, and CoOp's way of training them.

All of them use Dassl's SGD (momentum 0.9, weight decay 5e-4) under CoOp's schedule, and random crops of 8% to 100%
with mirror images. One thing differs for all: an epoch's last batch may be smaller, where Dassl leaves it out.
Axes: P = learned vectors, W = the width of the text tower, B = pictures, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from blocklora.classifier.class_prompts import ClassPrompts, cut_notes, prompt_tokens
from blocklora.clip import Clip, image_features
from blocklora.clip.prompted import token_embeddings
from blocklora.core.device import Compute
from blocklora.methods.frozen.on_features import FeatureBatches, labels_of, picture_features
from blocklora.methods.task import Task
from blocklora.methods.weights.own_weights import pictures_of
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import Batches, Curve, epoch_cosine, minimise
from blocklora.training.pictures import Augment

__all__ = [
    "epochs_of",
    "frozen_pictures",
    "random_vectors",
    "start_context",
    "train_prompts",
]

_MOMENTUM, _WEIGHT_DECAY, _STD = 0.9, 5e-4, 0.02
_START = 5  # what a random stream is for, beside those of the training package and on_features.py


def start_context(
    task: Task, clip: Clip, words: str, n_context: int, seed: int
) -> tuple[ClassPrompts, Tensor]:
    """Make the class prompts of a task.

    Args:
        task: Its class names.
        clip: The model.
        words: What the vectors start from; all words stay before the name. Empty: the vectors start at random.
        n_context: P, how many vectors; with ``words`` no more than they have tokens.
        seed: Where a random start comes from.

    Returns:
        The prompts, and where their vectors start (P, W).

    Raises:
        ConfigError: The text tower does not read so many tokens.
    """
    device = clip.model.logit_scale.device
    tokens, cut = prompt_tokens(clip, task.class_names, words, n_context)
    prompts = ClassPrompts(clip.model, tokens.to(device), cut_notes(cut, clip.context_length))
    if not words:
        width = clip.model.text_model.config.hidden_size
        return prompts, random_vectors(n_context, width, seed=seed, stream=0).to(device)
    n_context = min(n_context, len(clip.tokenizer(words)["input_ids"]) - 2)
    start = token_embeddings(clip.model, prompts.tokens[0, 1 : 1 + n_context])
    return prompts, start.detach().clone()


def random_vectors(*shape: int, seed: int, stream: int) -> Tensor:
    """Return normally distributed numbers with a standard deviation of 0.02, from (seed, stream)."""
    number = np.random.SeedSequence((seed, _START, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(int(number))) * _STD


def epochs_of(task: Task, epochs: int | None) -> int:
    """Return how many epochs to train: as given, or CoOp's 50 for one shot, 100 for 2 to 4, 200 for more."""
    return epochs or (50 if task.shots == 1 else 100 if task.shots <= 4 else 200)


def frozen_pictures(
    task: Task, clip: Clip, compute: Compute, *, batch_size: int, augment: Augment | None, seed: int
) -> tuple[Batches, Callable[[Tensor], Tensor]]:
    """Return batches, and what turns a batch into unit image features (B, D) of the frozen image tower.

    Without augmentation the features are computed once, beforehand.
    """
    if augment == "none":
        features = picture_features(task.train, clip, compute)
        return FeatureBatches(
            features, labels_of(task.train), batch_size=batch_size, seed=seed
        ), lambda given: given

    @torch.no_grad()
    def encode(pixel_values: Tensor) -> Tensor:
        return image_features(clip.model, pixel_values)

    return pictures_of(task, clip, batch_size=batch_size, augment=augment, seed=seed), encode


def train_prompts(
    tensors: Mapping[str, torch.nn.Parameter],
    gradients: Callable[[int, Tensor, Tensor], Tensor],
    batches: Batches,
    task: Task,
    compute: Compute,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    checkpoint: Checkpoint | None,
    on_step: OnStep | None,
    others: Mapping[str, Tensor] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> Curve:
    """Train prompts by SGD under CoOp's schedule.

    Args:
        tensors: What is trained, by name.
        gradients: See ``minimise``.
        batches: What every step is given.
        task: The task; its size says how many steps an epoch has.
        compute: Device and precision.
        epochs: How many.
        batch_size: B at most.
        lr: Learning rate.
        checkpoint: Where the state is kept.
        on_step: Told of progress.
        others: Tensors that ``after_epoch`` changes in place, by name.
        after_epoch: Told that an epoch, counted from 1, is done.
    """
    an_epoch = -(-len(task.train) // min(batch_size, len(task.train)))

    def after_step(step: int) -> None:
        if after_epoch and (step + 1) % an_epoch == 0:
            after_epoch((step + 1) // an_epoch)

    return minimise(
        gradients,
        torch.optim.SGD(tensors.values(), lr=lr, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY),
        epoch_cosine(epochs, an_epoch, lr),
        batches,
        compute,
        steps=epochs * an_epoch,
        state={**tensors, **(others or {})},
        checkpoint=checkpoint,
        on_step=on_step,
        after_step=after_step,
    )
