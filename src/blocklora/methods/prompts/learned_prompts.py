"""What prompt learners share: where their vectors start, and CoOp's way of training them.

All of them use Dassl's SGD (momentum 0.9, weight decay 5e-4) under CoOp's schedule, and random crops of 8% to 100%
with mirror images. One thing differs for all: an epoch's last batch may be smaller, where Dassl leaves it out.
Axes: P = learned vectors, W = the width of the text tower, B = images, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blocklora.classifier import ClassPrompts, cut_notes, prompt_tokens
from blocklora.clip import image_features, token_embeddings
from blocklora.core.schedules import epoch_cosine
from blocklora.core.seeds import Stream, torch_seed
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import frozen_features, training_images
from blocklora.methods.method import Job, Task
from blocklora.training import Batches, Curve, minimise
from blocklora.training.images import Augment

__all__ = [
    "FAMILIES",
    "epochs_of",
    "frozen_images",
    "random_vectors",
    "start_context",
    "train_prompts",
]

FAMILIES = ("clip", "metaclip_2")
"""The families whose text tower takes embedded words in the place of tokens, and is causal as CLIP's."""
_MOMENTUM, _WEIGHT_DECAY, _STD = 0.9, 5e-4, 0.02


def start_context(job: Job, words: str, n_context: int) -> tuple[ClassPrompts, Tensor]:
    """Make the class prompts of a task.

    Args:
        job: Class names, model and seed.
        words: What the vectors start from; all words stay before the name. Empty: the vectors start at random.
        n_context: P, how many vectors; with ``words`` no more than they have tokens.

    Returns:
        The prompts, and where their vectors start (P, W).

    Raises:
        ConfigError: The text tower does not read so many tokens.
    """
    clip = job.clip
    tokens, cut = prompt_tokens(clip, job.task.class_names, words, n_context)
    prompts = ClassPrompts(clip.model, tokens.to(job.device), cut_notes(cut, clip.context_length))
    if not words:
        width = clip.model.text_model.config.hidden_size
        return prompts, random_vectors(n_context, width, seed=job.seed, place=0).to(job.device)
    n_context = min(n_context, len(clip.tokenizer(words)["input_ids"]) - 2)
    start = token_embeddings(clip.model, prompts.tokens[0, 1 : 1 + n_context])
    return prompts, start.detach().clone()


def random_vectors(*shape: int, seed: int, place: int) -> Tensor:
    """Return normal values of any shape with a standard deviation of 0.02, from (seed, place)."""
    generator = torch.Generator().manual_seed(torch_seed(seed, Stream.PROMPT_START, place))
    return torch.randn(*shape, generator=generator) * _STD


def epochs_of(task: Task, epochs: int | None) -> int:
    """Return how many epochs to train: as given, or CoOp's 50 for one shot, 100 for 2 to 4, 200 for more."""
    return epochs or (50 if task.shots == 1 else 100 if task.shots <= 4 else 200)


def frozen_images(
    job: Job, batch_size: int, augment: Augment | None
) -> tuple[Batches, Callable[[Tensor], Tensor]]:
    """Return batches, and what turns a batch into unit image features (B, D) of the frozen image tower.

    Without augmentation the features are computed once, beforehand.
    """
    if augment == "none":
        return training_batches(job, frozen_features(job, job.task.train), batch_size), lambda given: given

    @torch.no_grad()
    def encode(pixel_values: Tensor) -> Tensor:
        return image_features(job.clip.model, pixel_values)

    return training_images(job, batch_size, augment), encode


def train_prompts(
    job: Job,
    tensors: Mapping[str, torch.nn.Parameter],
    gradients: Callable[[int, Tensor, Tensor], Tensor],
    batches: Batches,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    others: Mapping[str, Tensor] | None = None,
    after_epoch: Callable[[int, int], None] | None = None,
) -> Curve:
    """Train prompts by SGD under CoOp's schedule.

    Args:
        job: Its task's size says how many steps an epoch has.
        tensors: What is trained, by name.
        gradients: See ``minimise``.
        batches: What every step is given.
        epochs: How many at most.
        batch_size: B at most.
        lr: Learning rate.
        others: Tensors that ``after_epoch`` changes in place, by name.
        after_epoch: Called when an epoch, counted from 1, is done, with how many there are.
    """
    n_train = len(job.task.train)
    an_epoch = -(-n_train // min(batch_size, n_train))
    optimizer = torch.optim.SGD(tensors.values(), lr=lr, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    steps = job.steps_in_time(
        epochs * an_epoch, job.pace(gradients, optimizer, batches, tensors), whole=an_epoch
    )
    epochs = steps.number // an_epoch

    def after_step(step: int) -> None:
        if after_epoch and (step + 1) % an_epoch == 0:
            after_epoch((step + 1) // an_epoch, epochs)

    return minimise(
        gradients,
        optimizer,
        epoch_cosine(epochs, an_epoch, lr),
        batches,
        job.compute,
        steps=steps,
        state={**tensors, **(others or {})},
        checkpoint=job.checkpoint,
        on_step=job.on_step,
        resources=job.resources,
        after_step=after_step,
    )
