"""LP++: a linear probe plus learned multiples of the class prompts, with derived step sizes (Huang et al., 2024).

Logits are f . (w_n + alpha_n t_n) for a unit feature f and the unit text feature t_n of class n. Recipe
(FereshteShakeri/FewShot-CLIP-Strong-Baseline): the whole batch at once; w starts at the class sums of features, every
alpha at 250 x the mean of f . t of an image and its own class; SGD with momentum 0.9 on w at 4 M / lambda_max(F'F),
and every tenth epoch a plain step on alpha at M / (4 max_n |F t_n|^2): the inverse Lipschitz bounds of the paper; 300
epochs, of which validation images choose the latest best; one augmented pass, crops of 50% to 100%.
Deviations: no bias, as in the paper; alpha follows the gradient of its epoch, as in the paper, where the released code
adds up those since the start; the mean that alpha starts at is over own classes, there over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.frozen.batches import FeatureBatches, Keeper
from blocklora.methods.frozen.features import (
    FeatureSettings,
    labels_of,
    training_features,
    validation_features,
)
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive, need_whole
from blocklora.training import minimise

__all__ = ["METHOD", "LpPlusPlusSettings", "fit", "start", "step_sizes"]

_MOMENTUM = 0.9


@dataclass(frozen=True)
class LpPlusPlusSettings(FeatureSettings):
    """How to train the probe; its learning rates follow from the features.

    The other attributes are those of ``FeatureSettings``; all passes are in the one batch.

    Attributes:
        epochs: Steps over all features.
        alpha_scale: What the start of alpha is multiplied by.
        alpha_every: How many epochs lie between two steps on alpha.
    """

    epochs: int = 300
    alpha_scale: float = 250.0
    alpha_every: int = 10
    passes: int = 1

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "epochs", "alpha_every")
        need_positive(self, "alpha_scale", zero=True)


def fit(job: Job, settings: LpPlusPlusSettings) -> FitResult:
    """Train the probe."""
    passes = training_features(job, settings)
    features = passes.flatten(0, 1).to(job.device)
    labels = labels_of(job.task.train).repeat(len(passes)).to(job.device)
    classes = job.written_classes.to(job.device)
    weight, alpha = (torch.nn.Parameter(v) for v in start(features, labels, classes, settings.alpha_scale))
    weight_lr, alpha_lr = step_sizes(features, classes)

    def logits(inputs: Tensor) -> Tensor:
        return inputs @ weight.T + alpha * (inputs @ classes.T)

    def gradients(step: int, inputs: Tensor, truth: Tensor) -> Tensor:
        loss = F.cross_entropy(logits(inputs), truth)
        job.compute.backward(loss)
        return loss

    def on_alpha(step: int) -> float:
        return float((step + 1) % settings.alpha_every == 0)

    keeper = Keeper([weight, alpha], logits, *validation_features(job), an_epoch=1)
    optimizer = torch.optim.SGD(
        [
            {"params": [weight], "lr": weight_lr, "momentum": _MOMENTUM},
            {"params": [alpha], "lr": alpha_lr, "momentum": 0.0},
        ]
    )
    batches = FeatureBatches(features[None].cpu(), labels.cpu(), batch_size=len(labels), seed=job.seed)
    state = {"weight": weight, "alpha": alpha}
    steps = job.steps_in_time(settings.epochs, job.pace(gradients, optimizer, batches, state))
    curve = minimise(
        gradients,
        optimizer,
        [lambda step: 1.0, on_alpha],
        batches,
        job.compute,
        steps=steps,
        state=state,
        on_step=job.on_step,
        resources=job.resources,
        after_step=keeper.after_step,
    )
    kept = keeper.put_back(steps.number)
    both = (weight + alpha[:, None] * classes).detach().cpu()  # (N, D)
    head = Head("linear", {"weight": both, "bias": torch.zeros(len(both))})
    choices = {
        "kept step": kept,
        "learning rates": Choice((weight_lr, alpha_lr), "fixed", "derived from the training features"),
    }
    return FitResult(job.classifier(head=head), weight.numel() + alpha.numel(), choices, curve)


def start(
    features: Tensor, labels: Tensor, class_features: Tensor, alpha_scale: float
) -> tuple[Tensor, Tensor]:
    """Return where the weights (N, D) and alpha (N,) start.

    Args:
        features: Unit features of the training images (M, D).
        labels: Their labels (M,).
        class_features: Unit text features (N, D).
        alpha_scale: What alpha is multiplied by.
    """
    one_hot = F.one_hot(labels, len(class_features)).to(features)  # (M, N)
    own = (features * class_features[labels]).sum(dim=1)  # (M,): each image's cosine with its own class
    of_class = one_hot.T @ own / one_hot.sum(dim=0)  # (N,)
    return one_hot.T @ features, torch.full_like(of_class, alpha_scale * float(of_class.mean()))


def step_sizes(features: Tensor, class_features: Tensor) -> tuple[float, float]:
    """Return the learning rates of the weights and of alpha for features (M, D) and those of classes (N, D)."""
    n = len(features)
    exact = features.detach().cpu().double()
    largest = float(torch.linalg.eigvalsh(exact.T @ exact)[-1])  # of the D x D matrix F'F
    sums = (exact @ class_features.detach().cpu().double().T).square().sum(dim=0)  # (N,): |F t_n|^2
    return 4 * n / largest, n / (4 * float(sums.max()))


METHOD = Method(fit, LpPlusPlusSettings, prompts="trained with")
