"""CoCoOp: learned words that a small network shifts for every image (Zhou et al., 2022b).

Recipe (KaiyangZhou/CoOp): the vectors start from "a photo of a"; a bottleneck of D/16 reads the image feature, and
what it gives is added to every vector; SGD 2e-3, batches of 1, 10 epochs.
Deviations: those of all prompt learners here, see ``learned_prompts``. The classes depend on the image, so a
prediction runs the text tower over all class prompts for each image: it alone of all methods needs that tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import CONDITIONAL, Head, TextChange
from blocklora.classifier.class_prompts import conditional_logits
from blocklora.core.seeds import start_generator
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.prompts import coop
from blocklora.methods.prompts.learned_prompts import (
    FAMILIES,
    epochs_of,
    frozen_images,
    start_context,
    train_prompts,
)
from blocklora.methods.settings import need_whole

__all__ = ["METHOD", "CoCoOpSettings", "fit"]


@dataclass(frozen=True)
class CoCoOpSettings(coop.CoOpSettings):
    """How to learn the prompts; the other attributes are CoOp's.

    Attributes:
        reduction: How many times narrower than an image feature the bottleneck is.
    """

    words: str = "a photo of a"
    batch_size: int = 1
    epochs: int | None = 10
    reduction: int = 16

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "reduction")


def fit(job: Job, settings: CoCoOpSettings) -> FitResult:
    """Learn the prompts and the network."""
    prompts, start = start_context(job, settings.words, settings.n_context)
    tensors = {"context": torch.nn.Parameter(start)} | _network(job, settings.reduction, start.shape[1])
    batches, encode = frozen_images(job, settings.batch_size, settings.augment)

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        with job.compute.autocast():
            images = encode(inputs).float()
            logits = conditional_logits(images, prompts=prompts, scale=job.scale, **tensors)
        loss = F.cross_entropy(logits.float(), labels)
        job.compute.backward(loss)
        return loss

    curve = train_prompts(
        job,
        tensors,
        gradients,
        batches,
        epochs=epochs_of(job.task, settings.epochs),
        batch_size=settings.batch_size,
        lr=settings.lr,
    )
    kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    head = Head(CONDITIONAL, kept | {"tokens": prompts.tokens.cpu()}, {"scale": job.scale}, job.clip.model)
    return FitResult(
        job.classifier(head=head, text=TextChange(context=kept["context"], words=settings.words)),
        sum(tensor.numel() for tensor in tensors.values()),
        last_step(len(curve.losses), "CoCoOp"),
        curve,
        notes=prompts.notes,
    )


def _network(job: Job, reduction: int, text_width: int) -> dict[str, torch.nn.Parameter]:
    """Return the network's parameters as torch's ``Linear`` starts them: H = D / ``reduction``, W = ``text_width``."""
    width = job.clip.model.visual_projection.out_features
    hidden = max(1, width // reduction)
    draw = start_generator(job.seed)
    found: dict[str, Tensor] = {}
    for name, rows, columns in (("down", hidden, width), ("up", text_width, hidden)):
        bound = 1 / math.sqrt(columns)
        weight = (2 * torch.rand(rows, columns, generator=draw) - 1) * bound
        bias = (2 * torch.rand(rows, generator=draw) - 1) * bound
        found |= {name: weight, f"{name}_bias": bias}
    return {name: torch.nn.Parameter(value.to(job.device)) for name, value in found.items()}


METHOD = Method(fit, CoCoOpSettings, open=True, families=FAMILIES)
