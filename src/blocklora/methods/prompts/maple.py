"""MaPLe: learned vectors in both towers, the image tower's computed from the text tower's (Khattak et al., 2023a).

Recipe (muzairkhattak/multimodal-prompt-learning): 2 vectors at the start of "a photo of a NAME.", new ones before each
of the first 9 layers; a linear map of its own for every layer turns them into the image tower's vectors; SGD 3.5e-3,
batches of 4, 5 epochs.
Deviations: those of all prompt learners here, see ``learned_prompts``. A tower of fewer layers has fewer vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import ImageChange, TextChange
from blocklora.clip import prompted_image_features
from blocklora.core.seeds import start_generator
from blocklora.methods.frozen.features import training_images
from blocklora.methods.method import FitResult, Job, Method, last_step
from blocklora.methods.prompts import coop
from blocklora.methods.prompts.learned_prompts import (
    FAMILIES,
    epochs_of,
    random_vectors,
    start_context,
    train_prompts,
)
from blocklora.methods.settings import need_whole

__all__ = ["METHOD", "MapleSettings", "fit", "image_prompts"]


@dataclass(frozen=True)
class MapleSettings(coop.CoOpSettings):
    """How to learn the prompts; the other attributes are CoOp's.

    Attributes:
        depth: How many layers of each tower read learned vectors.
    """

    n_context: int = 2
    words: str = "a photo of a"
    lr: float = 3.5e-3
    batch_size: int = 4
    epochs: int | None = 5
    depth: int = 9

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "depth")


def fit(job: Job, settings: MapleSettings) -> FitResult:
    """Learn the prompts."""
    model = job.clip.model
    prompts, start = start_context(job, settings.words, settings.n_context)
    depth = min(settings.depth, *job.clip.depths.values())
    tensors = _start(start, depth, model.visual_projection.in_features, job.seed)

    def gradients(step: int, pixel_values: Tensor, labels: Tensor) -> Tensor:
        with job.compute.autocast():
            classes = prompts.features(tensors["context"], tensors["deep"])
            images = prompted_image_features(model, pixel_values, image_prompts(**tensors))
        loss = F.cross_entropy(job.scale * images.float() @ classes.float().T, labels)
        job.compute.backward(loss)
        return loss

    curve = train_prompts(
        job,
        tensors,
        gradients,
        training_images(job, settings.batch_size, settings.augment),
        epochs=epochs_of(job.task, settings.epochs),
        batch_size=settings.batch_size,
        lr=settings.lr,
    )
    with torch.no_grad():
        visual = image_prompts(**tensors)
        with job.compute.autocast():
            classes = prompts.features(tensors["context"], tensors["deep"])
    text = TextChange(
        context=tensors["context"].detach(), deep=tensors["deep"].detach(), words=settings.words
    )
    return FitResult(
        job.classifier(classes.float(), image=ImageChange(prompts=visual), text=text),
        sum(tensor.numel() for tensor in tensors.values()),
        last_step(len(curve.losses), "MaPLe"),
        curve,
        notes=prompts.notes,
    )


def image_prompts(context: Tensor, deep: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the image tower's vectors (J, P, V) that belong to the text tower's.

    Args:
        context: Vectors before the class name (P, W).
        deep: Those of the next layers (J - 1, P, W).
        weight: One map for each layer (J, V, W), V being the image tower's width.
        bias: The maps' biases (J, V).
    """
    text = torch.cat([context[None], deep])  # (J, P, W)
    return text @ weight.transpose(1, 2) + bias[:, None]


def _start(context: Tensor, depth: int, image_width: int, seed: int) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by name: the maps of all layers but the first start alike, as torch's Linear does."""
    vectors, width = context.shape
    bound = 1 / math.sqrt(width)
    generator = start_generator(seed)
    maps = [(2 * torch.rand(image_width, width + 1, generator=generator) - 1) * bound for _ in range(2)]
    both = torch.stack([maps[0], *[maps[1]] * (depth - 1)])  # (J, V, W + 1): weights, and a column of biases
    start = {
        "context": context,
        "deep": random_vectors(depth - 1, vectors, width, seed=seed, place=1),
        "weight": both[..., :-1],
        "bias": both[..., -1],
    }
    return {name: torch.nn.Parameter(value.to(context.device).contiguous()) for name, value in start.items()}


METHOD = Method(fit, MapleSettings, open=True, families=FAMILIES)
