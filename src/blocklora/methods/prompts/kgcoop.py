"""KgCoOp: CoOp whose classes are kept near those of the hand-written prompts (Yao et al., 2023).

Recipe (htyao89/KgCoOp): the vectors start from "a photo of a"; to the cross-entropy comes 8 x (1 - the mean cosine of
each class's feature and that of its hand-written prompt); SGD 2e-3, batches of 128, 100 epochs.
Deviations: those of all prompt learners here, see ``learned_prompts``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.prompts import coop
from blocklora.methods.prompts.learned_prompts import FAMILIES
from blocklora.methods.settings import need_positive

__all__ = ["METHOD", "KgCoOpSettings", "fit"]


@dataclass(frozen=True)
class KgCoOpSettings(coop.CoOpSettings):
    """How to learn the prompts; the other attributes are CoOp's.

    Attributes:
        weight: What the distance from the hand-written prompts is multiplied by; with 0 this is CoOp.
    """

    words: str = "a photo of a"
    batch_size: int = 128
    epochs: int | None = 100
    weight: float = 8.0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_positive(self, "weight", zero=True)


def fit(job: Job, settings: KgCoOpSettings) -> FitResult:
    """Learn the prompts."""
    written = job.written_classes.to(job.device)  # (N, D)

    def gradients(context: torch.nn.Parameter, images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
        distance = 1 - (classes * written).sum(dim=1).mean()
        loss = F.cross_entropy(job.scale * images @ classes.T, labels) + settings.weight * distance
        job.compute.backward(loss)
        return loss

    return coop.learn(job, settings, gradients, "KgCoOp")


METHOD = Method(fit, KgCoOpSettings, open=True, prompts="trained with", families=FAMILIES)
