"""CoCoOp: learned words that a small network shifts for every picture (Zhou et al., 2022b).

Recipe (KaiyangZhou/CoOp): the vectors start from "a photo of a"; a bottleneck of D/16 reads the image feature, and
what it gives is added to every vector; SGD 2e-3, batches of 1, 10 epochs.
Deviations: those of all prompt learners here, see ``learned_prompts``. The classes depend on the picture, so a
prediction runs the text tower over all class prompts for each picture: it alone of all methods needs that tower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import CONDITIONAL, Head, conditional_logits
from blocklora.classifier.text_side import TextSide
from blocklora.clip import Clip, class_features
from blocklora.core.device import Compute
from blocklora.methods.prompts import coop
from blocklora.methods.prompts.learned_prompts import epochs_of, frozen_pictures, start_context, train_prompts
from blocklora.methods.settings import need_whole
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.training import Checkpoint, OnStep

__all__ = ["Settings", "fit"]


@dataclass(frozen=True)
class Settings(coop.Settings):
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
    """Learn the prompts and the network; see ``Method``."""
    model, device = clip.model, compute.device
    prompts, start = start_context(task, clip, options.words, options.n_context, seed)
    tensors = {"context": torch.nn.Parameter(start)}
    width, text_width = model.visual_projection.out_features, start.shape[1]
    hidden = max(1, width // options.reduction)
    generator = torch.Generator().manual_seed(seed)
    for name, rows, columns in (("down", hidden, width), ("up", text_width, hidden)):
        bound = 1 / math.sqrt(columns)  # as torch's Linear starts
        weight = (2 * torch.rand(rows, columns, generator=generator) - 1) * bound
        bias = (2 * torch.rand(rows, generator=generator) - 1) * bound
        tensors |= {
            name: torch.nn.Parameter(weight.to(device)),
            f"{name}_bias": torch.nn.Parameter(bias.to(device)),
        }
    scale = float(model.logit_scale.detach().exp())
    batches, encode = frozen_pictures(
        task, clip, compute, batch_size=options.batch_size, augment=options.augment, seed=seed
    )

    def gradients(step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        with compute.autocast():
            images = encode(inputs).float()
            logits = conditional_logits(images, prompts=prompts, scale=scale, **tensors)
        loss = F.cross_entropy(logits.float(), labels)
        compute.backward(loss)
        return loss

    curve = train_prompts(
        tensors,
        gradients,
        batches,
        task,
        compute,
        epochs=epochs_of(task, options.epochs),
        batch_size=options.batch_size,
        lr=options.lr,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    return Fitted(
        model=model,
        class_features=class_features(model, task.tokens),
        trainable_parameters=sum(tensor.numel() for tensor in tensors.values()),
        training=curve,
        selection=fixed_beforehand(len(curve.losses), "CoCoOp"),
        notes=prompts.notes,
        text=TextSide(context=kept["context"], words=options.words),
        head=Head(CONDITIONAL, kept | {"tokens": prompts.tokens.cpu()}, {"scale": scale}, model),
    )
