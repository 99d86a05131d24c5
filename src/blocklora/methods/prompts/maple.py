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

from blocklora.classifier.text_side import TextSide
from blocklora.classifier.tower import TowerChange
from blocklora.clip import Clip
from blocklora.clip.prompted import prompted_image_features
from blocklora.core.device import Compute
from blocklora.methods.prompts import coop
from blocklora.methods.prompts.learned_prompts import (
    epochs_of,
    random_vectors,
    start_context,
    train_prompts,
)
from blocklora.methods.settings import need_whole
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.methods.weights.own_weights import pictures_of
from blocklora.training import Checkpoint, OnStep

__all__ = ["Settings", "fit", "image_prompts"]


@dataclass(frozen=True)
class Settings(coop.Settings):
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
    model = clip.model
    scale = model.logit_scale.detach().exp()
    prompts, start = start_context(task, clip, options.words, options.n_context, seed)
    depth = min(options.depth, *clip.depths.values())
    tensors = _start(start, depth, model.visual_projection.in_features, seed)

    def features(pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        classes = prompts.features(tensors["context"], tensors["deep"])
        return prompted_image_features(model, pixel_values, image_prompts(**tensors)), classes

    def gradients(step: int, pixel_values: Tensor, labels: Tensor) -> Tensor:
        with compute.autocast():
            images, classes = features(pixel_values)
        loss = F.cross_entropy(scale * images.float() @ classes.float().T, labels)
        compute.backward(loss)
        return loss

    curve = train_prompts(
        tensors,
        gradients,
        pictures_of(task, clip, batch_size=options.batch_size, augment=options.augment, seed=seed),
        task,
        compute,
        epochs=epochs_of(task, options.epochs),
        batch_size=options.batch_size,
        lr=options.lr,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    with torch.no_grad():
        visual = image_prompts(**tensors)
        with compute.autocast():
            classes = prompts.features(tensors["context"], tensors["deep"])
    return Fitted(
        model=model,
        class_features=classes.float().cpu(),
        trainable_parameters=sum(tensor.numel() for tensor in tensors.values()),
        training=curve,
        selection=fixed_beforehand(len(curve.losses), "MaPLe"),
        notes=prompts.notes,
        tower=TowerChange(prompts=visual),
        text=TextSide(
            context=tensors["context"].detach(), deep=tensors["deep"].detach(), words=options.words
        ),
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
    generator = torch.Generator().manual_seed(seed)
    maps = [(2 * torch.rand(image_width, width + 1, generator=generator) - 1) * bound for _ in range(2)]
    both = torch.stack([maps[0], *[maps[1]] * (depth - 1)])  # (J, V, W + 1): weights, and a column of biases
    start = {
        "context": context,
        "deep": random_vectors(depth - 1, vectors, width, seed=seed, stream=1),
        "weight": both[..., :-1],
        "bias": both[..., -1],
    }
    return {name: torch.nn.Parameter(value.to(context.device).contiguous()) for name, value in start.items()}
