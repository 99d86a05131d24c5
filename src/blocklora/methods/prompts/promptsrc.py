"""PromptSRC: learned vectors in both towers that stay near what the frozen towers say (Khattak et al., 2023b).

Recipe (muzairkhattak/PromptSRC, few-shot): 4 vectors from "a photo of a" and 4 in the image tower, new ones before each
of the first 9 layers; to the cross-entropy come 25 x the L1 distance of the class features from those of hand-written
prompts, 10 x that of the image features from the frozen tower's, and the divergence of the predictions from the frozen
ones; SGD 2.5e-3, batches of 4, 50 epochs; kept is the mean of the vectors over the epochs, weighted by a Gaussian of
mean 30 and standard deviation 30 (published for cars, flowers, aircraft, DTD and EuroSAT: 45 and 5).
Deviations: those of all prompt learners here, see ``learned_prompts``. The hand-written prompts are the task's own, not
60 ImageNet templates. A tower of fewer layers has fewer vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import ImageChange, TextChange
from blocklora.clip import image_features, prompted_image_features
from blocklora.core.choices import Choice
from blocklora.methods.frozen.features import training_images
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.prompts import maple
from blocklora.methods.prompts.learned_prompts import (
    FAMILIES,
    epochs_of,
    random_vectors,
    start_context,
    train_prompts,
)
from blocklora.methods.settings import need_positive, need_whole

__all__ = ["METHOD", "PromptSrcSettings", "epoch_weights", "fit", "regularised_loss"]


@dataclass(frozen=True)
class PromptSrcSettings(maple.MapleSettings):
    """How to learn the prompts; the other attributes are MaPLe's.

    Attributes:
        n_image_context: How many vectors the image tower reads in a layer.
        text_weight: What the distance of the class features is multiplied by.
        image_weight: What the distance of the image features is multiplied by.
        mean_epoch: Where the weights of the epochs are largest.
        spread: Their standard deviation, in epochs.
    """

    n_context: int = 4
    lr: float = 2.5e-3
    epochs: int | None = 50
    n_image_context: int = 4
    text_weight: float = 25.0
    image_weight: float = 10.0
    mean_epoch: float = 30.0
    spread: float = 30.0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "n_image_context")
        need_positive(self, "text_weight", "image_weight", zero=True)
        need_positive(self, "mean_epoch", "spread")


def fit(job: Job, settings: PromptSrcSettings) -> FitResult:
    """Learn the prompts."""
    model = job.clip.model
    written = job.written_classes.to(job.device)  # (N, D)
    prompts, context = start_context(job, settings.words, settings.n_context)
    tensors = _start(job, settings, context)
    means = {f"mean/{name}": torch.zeros_like(tensor) for name, tensor in tensors.items()}

    def gradients(step: int, pixel_values: Tensor, labels: Tensor) -> Tensor:
        with job.compute.autocast():
            classes = prompts.features(tensors["context"], tensors["deep"])
            images = prompted_image_features(model, pixel_values, tensors["visual"])
            with torch.no_grad():
                frozen = image_features(model, pixel_values)
        loss = regularised_loss(
            images.float(),
            classes.float(),
            frozen.float(),
            written,
            labels,
            scale=job.scale,
            text_weight=settings.text_weight,
            image_weight=settings.image_weight,
        )
        job.compute.backward(loss)
        return loss

    def after_epoch(epoch: int, epochs: int) -> None:
        weight = epoch_weights(epochs, settings.mean_epoch, settings.spread)[epoch - 1]
        for name, tensor in tensors.items():
            means[f"mean/{name}"] += weight * tensor.detach()

    curve = train_prompts(
        job,
        tensors,
        gradients,
        training_images(job, settings.batch_size, settings.augment),
        epochs=epochs_of(job.task, settings.epochs),
        batch_size=settings.batch_size,
        lr=settings.lr,
        others=means,
        after_epoch=after_epoch,
    )
    with torch.no_grad(), job.compute.autocast():
        classes = prompts.features(means["mean/context"], means["mean/deep"])
    an_epoch = -(-len(job.task.train) // min(settings.batch_size, len(job.task.train)))
    epochs = len(curve.losses) // an_epoch
    kept = Choice(epochs, "fixed", "the mean over all epochs, by weights fixed beforehand")
    text = TextChange(context=means["mean/context"], deep=means["mean/deep"], words=settings.words)
    return FitResult(
        job.classifier(classes.float(), image=ImageChange(prompts=means["mean/visual"]), text=text),
        sum(tensor.numel() for tensor in tensors.values()),
        last_step(len(curve.losses), "PromptSRC") | {"kept step": kept},
        curve,
        notes=prompts.notes,
    )


def _start(job: Job, settings: PromptSrcSettings, context: Tensor) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name."""
    depth = min(settings.depth, *job.clip.depths.values())
    vectors, width = context.shape
    image_width = job.clip.model.visual_projection.in_features
    start = {
        "context": context,
        "deep": random_vectors(depth - 1, vectors, width, seed=job.seed, place=1),
        "visual": random_vectors(depth, settings.n_image_context, image_width, seed=job.seed, place=2),
    }
    return {name: torch.nn.Parameter(value.to(job.device)) for name, value in start.items()}


def regularised_loss(
    images: Tensor,
    classes: Tensor,
    frozen_images: Tensor,
    frozen_classes: Tensor,
    labels: Tensor,
    *,
    scale: float,
    text_weight: float,
    image_weight: float,
) -> Tensor:
    """Return the cross-entropy plus the three distances from the frozen model (Khattak et al., 2023b, eq. 3 to 6).

    Args:
        images: Unit image features with prompts (B, D).
        classes: Unit class features with prompts (N, D).
        frozen_images: Unit image features of the frozen tower (B, D).
        frozen_classes: Unit class features of the hand-written prompts (N, D).
        labels: (B,).
        scale: CLIP's logit scale.
        text_weight: Of the L1 distance of the class features, a mean over all their numbers.
        image_weight: Of the L1 distance of the image features, likewise.
    """
    logits, frozen = scale * images @ classes.T, scale * frozen_images @ frozen_classes.T  # (B, N)
    divergence = F.kl_div(
        logits.log_softmax(dim=1), frozen.log_softmax(dim=1), reduction="sum", log_target=True
    )
    return (
        F.cross_entropy(logits, labels)
        + text_weight * F.l1_loss(classes, frozen_classes)
        + image_weight * F.l1_loss(images, frozen_images)
        + divergence / logits.numel()
    )


def epoch_weights(epochs: int, mean: float, spread: float) -> list[float]:
    """Return the weight of every epoch in the mean that is kept: a Gaussian over 1 .. ``epochs``, summing to 1."""
    found = [math.exp(-0.5 * ((epoch - mean) / spread) ** 2) for epoch in range(1, epochs + 1)]
    return [value / sum(found) for value in found]


METHOD = Method(fit, PromptSrcSettings, open=True, prompts="trained with", families=FAMILIES)
