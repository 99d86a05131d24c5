"""ProGrad: CoOp that takes no step against what zero-shot knows (Zhu et al., 2023).

Recipe (BeierZhu/Prompt-align): CoOp's, and of every gradient of the cross-entropy that points against the gradient of
the divergence from the zero-shot predictions, lambda (1) times the part along it is taken away; temperature 1.
Deviations: those of all prompt learners here, see ``learned_prompts``. Written from the paper; not compared with the
released code.
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

__all__ = ["METHOD", "ProGradSettings", "aligned", "fit"]


@dataclass(frozen=True)
class ProGradSettings(coop.CoOpSettings):
    """How to learn the prompts; the other attributes are CoOp's.

    Attributes:
        weight: The paper's lambda; with 0 this is CoOp.
        temperature: What logits are divided by in the divergence.
    """

    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_positive(self, "weight", zero=True)
        need_positive(self, "temperature")


def fit(job: Job, settings: ProGradSettings) -> FitResult:
    """Learn the prompts."""
    written, heat = job.written_classes.to(job.device), settings.temperature  # (N, D)

    def gradients(context: torch.nn.Parameter, images: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
        logits = job.scale * images @ classes.T  # (B, N)
        teacher = (job.scale * images @ written.T / heat).softmax(dim=1)
        divergence = heat**2 * F.cross_entropy(logits / heat, teacher)
        job.compute.backward(divergence, retain_graph=True)
        general = _taken(context)
        loss = F.cross_entropy(logits, labels)
        job.compute.backward(loss)
        context.grad = aligned(_taken(context), general, settings.weight)
        return loss

    return coop.learn(job, settings, gradients, "ProGrad")


def aligned(gradient: Tensor, general: Tensor, weight: float) -> Tensor:
    """Take away what of a gradient points against a general direction (Zhu et al., 2023, eq. 4).

    Args:
        gradient: Of the task's loss, of any shape.
        general: Of the divergence from zero-shot, of the same shape.
        weight: How many times the conflicting part is taken away.
    """
    unit = general / general.norm().clamp_min(torch.finfo(general.dtype).tiny)
    rest: Tensor = gradient - weight * (gradient * unit).sum().clamp(max=0.0) * unit
    return rest


def _taken(parameter: torch.nn.Parameter) -> Tensor:
    """Return a parameter's gradient, and clear it."""
    gradient = parameter.grad
    parameter.grad = None
    return torch.zeros_like(parameter) if gradient is None else gradient


METHOD = Method(fit, ProGradSettings, open=True, prompts="trained with", families=FAMILIES)
