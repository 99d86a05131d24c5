"""What methods on frozen features share: features computed once, augmented passes included, and batches of them.

Axes: V = passes over the images, M = images, N = classes, D = the width of the shared space, B = a batch, S = the side
of the model's square. A feature depends on (seed, pass, image) alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from blocklora.classifier import frozen_facts, in_halves
from blocklora.clip import Clip, crop_size, image_features, pixels, random_crop, text_embeddings
from blocklora.core.seeds import Stream, generator
from blocklora.core.threads import read_ahead
from blocklora.data import Example, open_for_model, open_image
from blocklora.methods.bank import FeatureBank
from blocklora.methods.method import Job
from blocklora.methods.settings import need_share, need_whole
from blocklora.training.images import Augment, TrainingImages

__all__ = [
    "FeatureSettings",
    "accuracy",
    "bank_of",
    "class_embeddings",
    "frozen_features",
    "labels_of",
    "training_features",
    "training_images",
    "validation_features",
]

_AT_ONCE = 64  # views that the image tower sees at a time
_SMALLEST = 0.5  # crop, as a share of the image's area
_LARGER = 4  # images that are cropped are decoded at no less than so many times S


@dataclass(frozen=True)
class FeatureSettings:
    """How the features of the training images are computed.

    Attributes:
        passes: Augmented passes over the images.
        smallest_crop: Its share of an image's area, in (0, 1].
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
    """

    passes: int = 10
    smallest_crop: float = _SMALLEST
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "passes")
        need_share(self, "smallest_crop")


def training_features(job: Job, settings: FeatureSettings) -> Tensor:
    """Return augmented unit features of the training images (V, M, D), float32 on the CPU."""
    return frozen_features(
        job,
        job.task.train,
        augment=_augment(job, settings.augment),
        passes=settings.passes,
        smallest=settings.smallest_crop,
    )


def validation_features(job: Job) -> tuple[Tensor, Tensor]:
    """Return features (M, D) and labels (M,) of the validation images, on the device; there may be none."""
    if not job.task.val:
        return torch.empty(0, 0, device=job.device), torch.empty(0, dtype=torch.long, device=job.device)
    return frozen_features(job, job.task.val)[0].to(job.device), labels_of(job.task.val).to(job.device)


@torch.no_grad()
def frozen_features(
    job: Job,
    examples: Sequence[Example],
    *,
    augment: Augment = "none",
    passes: int = 1,
    smallest: float = _SMALLEST,
) -> Tensor:
    """Run the frozen image tower over images, once for every augmented pass; the job's store keeps the result.

    Args:
        job: Model, device, precision, seed and store.
        examples: M readable images; each is decoded once.
        augment: ``crop-flip``, ``crop``, or ``none``: what a test image gets, the same in every pass.
        passes: V, how often each image is cut anew.
        smallest: The smallest crop, as a share of the image's area.

    Returns:
        Unit features (V, M, D), float32 on the CPU.
    """
    if job.bank:
        alone = replace(job, bank=None)
        known = job.bank.of(
            examples,
            (job.clip.sha256, augment, smallest),
            passes,
            lambda group: frozen_features(alone, group, augment=augment, passes=passes, smallest=smallest),
        )
        if known is not None:
            return known
    facts = None
    if job.store.keeps:
        facts = frozen_facts([(example.image, example.source) for example in examples], job.clip, job.compute)
    if facts and (augment != "none" or passes > 1):
        facts |= {"augment": augment, "passes": passes, "smallest": smallest, "seed": job.seed}
    features = job.store.recall(facts)
    if features is None:
        began = time.monotonic()
        features = _compute(job, examples, augment, passes, smallest)
        job.store.keep(facts, features, time.monotonic() - began)
    return features


def bank_of(clip: Clip, train: Sequence[Example], val: Sequence[Example], features: Tensor) -> FeatureBank:
    """Return a bank in which the features of the plain training images (M, D) are known already."""
    bank = FeatureBank(train, val)
    bank.keep(0, (clip.sha256, "none", _SMALLEST), features[None])
    return bank


def _compute(job: Job, examples: Sequence[Example], augment: Augment, passes: int, smallest: float) -> Tensor:
    """Compute what ``frozen_features`` returns."""
    processor = job.clip.processor

    def views(index: int) -> Tensor:
        if augment == "none":
            image = open_for_model(examples[index].source, crop_size(processor))
            return torch.stack([pixels(image, processor)] * passes)
        return _random_views(job, examples[index], index, augment, passes, smallest)

    def forward(pixel_values: Tensor) -> Tensor:
        with job.compute.autocast():
            return image_features(job.clip.model, pixel_values)

    at_once = max(1, _AT_ONCE // passes)
    found, waiting = [], []
    for index, cut in enumerate(read_ahead(views, range(len(examples)), ahead=2 * at_once), 1):
        waiting.append(cut)
        if len(waiting) == at_once or index == len(examples):
            features = in_halves(forward, torch.cat(waiting).to(job.device))  # (images x V, D)
            found.append(features.view(len(waiting), passes, -1).transpose(0, 1))  # (V, images, D)
            waiting = []
    return torch.cat(found, dim=1)


def _random_views(
    job: Job, example: Example, index: int, augment: Augment, passes: int, smallest: float
) -> Tensor:
    """Cut an image anew for every pass (V, 3, S, S)."""
    processor, size = job.clip.processor, crop_size(job.clip.processor)
    image = open_image(example.source, min_side=_LARGER * size)
    views = []
    for number in range(passes):
        draw = generator(job.seed, Stream.FEATURE_CROP, number, index)
        view = random_crop(image, size, draw, smallest=smallest)
        if augment == "crop-flip" and draw.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        views.append(pixels(view, processor, resized=True))
    return torch.stack(views)


@torch.no_grad()
def class_embeddings(job: Job) -> Tensor:
    """Return the text tower's outputs for the class prompts, not normalised (N, D), float32 on the CPU.

    Those of an ensemble are averaged as they are (geekyutao/TaskRes, jusiro/CLAP).
    """
    each = []
    for tokens in job.task.ensemble or (job.task.tokens,):
        parts = torch.split(tokens, 256)
        each.append(
            torch.cat([text_embeddings(job.clip.model, part.to(job.device)).float().cpu() for part in parts])
        )
    return torch.stack(each).mean(dim=0)


def training_images(job: Job, batch_size: int, augment: Augment | None) -> TrainingImages:
    """Return batches of training images; with ``augment`` None they are mirrored where that fits."""
    return TrainingImages(
        job.task.train,
        job.clip.processor,
        batch_size=batch_size,
        augment=_augment(job, augment),
        seed=job.seed,
        ranks=job.compute.ranks,
    )


def _augment(job: Job, augment: Augment | None) -> Augment:
    """Return how training images are cut: as asked for, or mirrored where a mirror image is of the same class."""
    return augment or ("crop-flip" if job.task.flip else "crop")


def labels_of(examples: Sequence[Example]) -> Tensor:
    """Return the labels of images (M,)."""
    return torch.tensor([example.label for example in examples], dtype=torch.long)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of logits (M, N) whose largest value stands at the label."""
    return float((logits.argmax(dim=1) == labels).double().mean())
