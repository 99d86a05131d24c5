"""What methods on frozen features share: features computed once, augmented passes included, and batches of them.

Axes: V = passes over the pictures, M = pictures, N = classes, D = the width of the shared space, B = a batch.
A feature depends on (seed, pass, picture) alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from blocklora.classifier.store import frozen_features, keep, recall
from blocklora.clip import Clip, class_features, crop_size, image_features, pixels, random_crop
from blocklora.clip.features import read_ahead
from blocklora.core.device import Compute
from blocklora.data import Example, open_image
from blocklora.methods.task import Task
from blocklora.training.pictures import Augment

__all__ = [
    "FeatureBatches",
    "Keeper",
    "accuracy",
    "labels_of",
    "picture_features",
    "text_embeddings",
    "train_features",
    "val_features",
    "written_classes",
]

_PASS, _ORDER = 3, 4  # what a random stream is for, beside those of the training package
_PICTURES = 64  # that the image tower sees at a time
_LARGER = 4  # as in training/pictures.py


@torch.no_grad()
def picture_features(
    examples: Sequence[Example],
    clip: Clip,
    compute: Compute,
    *,
    augment: Augment = "none",
    passes: int = 1,
    smallest: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """Run the frozen image tower over pictures, once for every augmented pass; a bench keeps the result for its runs.

    Args:
        examples: M readable pictures; each is decoded once.
        clip: The model.
        compute: Device and precision.
        augment: ``crop-flip``, ``crop``, or ``none``: what a test picture gets, the same in every pass.
        passes: V, how often each picture is cut anew.
        smallest: The smallest crop, as a share of the picture's area.
        seed: Where the crops come from.

    Returns:
        Unit features (V, M, D), float32 on the CPU.
    """
    named = [(example.image, example.source) for example in examples]
    precision = compute.precision
    what = frozen_features(named, clip, compute.device, precision)
    if what and (augment != "none" or passes > 1):
        what |= {"augment": augment, "passes": passes, "smallest": smallest, "seed": seed}
    features = recall(what)
    if features is None:
        began = time.monotonic()
        features = _run(examples, clip, compute, augment, passes, smallest, seed)
        keep(what, features, time.monotonic() - began)
    return features


def _run(
    examples: Sequence[Example],
    clip: Clip,
    compute: Compute,
    augment: Augment,
    passes: int,
    smallest: float,
    seed: int,
) -> Tensor:
    """Compute what ``picture_features`` returns."""
    processor, size = clip.processor, crop_size(clip.processor)

    def cut(index: int) -> Tensor:
        if augment == "none":
            return torch.stack([pixels(open_image(examples[index].source), processor)] * passes)
        picture = open_image(examples[index].source, min_side=_LARGER * size)
        views = []
        for number in range(passes):
            generator = np.random.default_rng((seed, _PASS, number, index))
            view = random_crop(picture, size, generator, smallest=smallest)
            if augment == "crop-flip" and generator.random() < 0.5:
                view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            views.append(pixels(view, processor, resized=True))
        return torch.stack(views)  # (V, 3, S, S)

    at_once = max(1, _PICTURES // passes)
    found, waiting = [], []
    for index, views in enumerate(read_ahead(cut, range(len(examples)), ahead=2 * at_once), 1):
        waiting.append(views)
        if len(waiting) == at_once or index == len(examples):
            batch = torch.cat(waiting).to(compute.device)  # (pictures x V, 3, S, S)
            with compute.autocast():
                features = image_features(clip.model, batch).float().cpu()
            found.append(features.view(len(waiting), passes, -1).transpose(0, 1))  # (V, pictures, D)
            waiting = []
    return torch.cat(found, dim=1)


def train_features(
    task: Task,
    clip: Clip,
    compute: Compute,
    *,
    augment: Augment | None,
    passes: int,
    smallest: float,
    seed: int,
) -> Tensor:
    """Return augmented features of the training pictures (V, M, D); with None they are mirrored where it fits."""
    chosen: Augment = augment or ("crop-flip" if task.flip else "crop")
    return picture_features(
        task.train, clip, compute, augment=chosen, passes=passes, smallest=smallest, seed=seed
    )


def written_classes(task: Task, clip: Clip) -> Tensor:
    """Return unit class features (N, D) of the hand-written prompts, on the CPU: the mean over an ensemble.

    As openai/CLIP does, unit features of the templates are averaged, and the mean is a unit vector again.
    """
    each = [class_features(clip.model, tokens) for tokens in task.ensemble or (task.tokens,)]
    return F.normalize(torch.stack(each).mean(dim=0), dim=-1) if len(each) > 1 else each[0]


@torch.no_grad()
def text_embeddings(task: Task, clip: Clip) -> Tensor:
    """Return the text tower's outputs for the class prompts, not normalised (N, D), float32 on the CPU.

    Those of an ensemble are averaged as they are (geekyutao/TaskRes, jusiro/CLAP).
    """
    device = clip.model.logit_scale.device
    each = []
    for tokens in task.ensemble or (task.tokens,):
        parts: list[Any] = [
            clip.model.get_text_features(input_ids=part.to(device)).pooler_output.float().cpu()
            for part in torch.split(tokens, 256)
        ]
        each.append(torch.cat(parts))
    return torch.stack(each).mean(dim=0)


def labels_of(examples: Sequence[Example]) -> Tensor:
    """Return the labels of pictures (M,)."""
    return torch.tensor([example.label for example in examples], dtype=torch.long)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of logits (M, N) whose largest number stands at the label."""
    return float((logits.argmax(dim=1) == labels).double().mean())


class FeatureBatches:
    """Batches of features, by step; an epoch shows every picture once.

    Args:
        features: (V, M, D).
        labels: (M,).
        batch_size: The largest B.
        seed: Where the order comes from.
        draw: ``turns``: epoch e shows pass e modulo V of every picture; ``mixed``: M of all V x M features, drawn
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
        passes, pictures = self._features.shape[:2]
        epoch, number = divmod(step, self.an_epoch)
        generator = np.random.default_rng((self._seed, _ORDER, epoch))
        if self._draw == "mixed":
            turn, picture = np.divmod(generator.permutation(passes * pictures)[:pictures], pictures)
        else:
            turn, picture = np.full(pictures, epoch % passes), generator.permutation(pictures)
        chosen = slice(number * self._batch_size, (number + 1) * self._batch_size)
        index = torch.from_numpy(picture[chosen])
        return self._features[torch.from_numpy(turn[chosen]), index], self._labels[index]


class Keeper:
    """Keeps the epoch that validation pictures like best, the later one of equals; without them the last epoch.

    Args:
        tensors: What training changes.
        logits: Turns features (M, D) into logits (M, N) with these tensors as they are.
        features: Of the validation pictures (M, D); empty where there are none.
        labels: Of the validation pictures (M,).
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
        """Look at the validation pictures where an epoch ends; ``minimise`` calls it."""
        if not len(self._labels) or (step + 1) % self._an_epoch:
            return
        score = accuracy(self._logits(self._features), self._labels)
        if score >= self._best:
            self._best, self._epoch = score, (step + 1) // self._an_epoch
            self._kept = [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def put_back(self, epochs: int) -> str:
        """Give the tensors the values of the kept epoch, and say which it is, of how many."""
        if not len(self._labels):
            return f"the last of {epochs} epochs, fixed: there are no validation pictures to choose by"
        for tensor, kept in zip(self._tensors, self._kept, strict=True):
            tensor.copy_(kept)
        return (
            f"epoch {self._epoch} of {epochs}, the latest of the best on {len(self._labels)} validation "
            f"pictures ({self._best:.1%})"
        )


def val_features(task: Task, clip: Clip, compute: Compute) -> tuple[Tensor, Tensor]:
    """Return features (M, D) and labels (M,) of the validation pictures, on the device; there may be none."""
    device = compute.device
    if not task.val:
        return torch.empty(0, 0, device=device), torch.empty(0, dtype=torch.long, device=device)
    return picture_features(task.val, clip, compute)[0].to(device), labels_of(task.val).to(device)
