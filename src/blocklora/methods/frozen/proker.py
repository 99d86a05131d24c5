"""ProKeR: kernel ridge regression of what the class prompts do not explain, in closed form (Bendou et al., 2025).

g(x) = zs(x) + k(x, S) (K + lambda I)^-1 (Y - zs(S)), where zs are cosines with the unit text features, Y the one-hot
labels of the training features S, k(x, x') = exp(beta (x . x' - 1)) the RBF kernel of unit features, and K = k(S, S).
Recipe (ybendou/ProKeR, ``trainers/proker.py``, as in its copy omarnust/BReg-Adapter): beta and lambda are chosen on
validation images. The result is a ``cache`` head: the training features are its keys, the solution its values.
Deviations: g is multiplied by the logit scale, so that without training images it is CLIP itself; one plain feature a
training image, not 10 augmented ones; the released code multiplies the kernel's part once more by lambda, here it is
the formula; 8 values of beta and 9 of lambda on one grid for every data set; without validation images they are chosen
by leaving out one training image at a time, in closed form, and are 3 and 0.1 where a class has one image.
Time grows with the cube of the number of training images, memory with its square.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.answers import CROSS_VALIDATED, HeldOut
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.folds import choose_value
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive

__all__ = ["METHOD", "KernelRidge", "ProkerSettings", "fit"]

_BETAS = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
_RIDGES = tuple(10.0 ** (-i / 2) for i in range(-2, 7))  # from 10 down to 0.001
_BEFOREHAND = (3.0, 0.1)


@dataclass(frozen=True)
class ProkerSettings:
    """The kernel and the penalty.

    Attributes:
        beta: How fast a training image's weight falls with its distance; None chooses it.
        ridge: Lambda, the penalty on leaving zero-shot; None chooses it. The larger, the nearer to zero-shot.
    """

    beta: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_positive(self, "beta", "ridge")


def fit(job: Job, settings: ProkerSettings) -> FitResult:
    """Solve for the values, and choose beta and lambda."""
    features = frozen_features(job, job.task.train)[0].double()  # (M, D)
    texts = job.written_classes.double()
    targets = F.one_hot(labels_of(job.task.train), len(texts)).double() - features @ texts.T  # Y - zs(S)
    beta, ridge, choices, held_out = _chosen(job, settings, features, targets, texts)
    values = KernelRidge(features, targets, beta).values(ridge)
    tensors = {"class_features": texts.float(), "keys": features.float(), "values": values.float()}
    head = Head("cache", tensors, {"scale": job.scale, "alpha": job.scale, "beta": beta})
    choices["kept step"] = Choice(0, "fixed", "nothing was trained")
    return FitResult(job.classifier(head=head), 0, choices, held_out=held_out, features=features)


class KernelRidge:
    """Ridge regression with the RBF kernel of unit features, for every lambda after one decomposition.

    Args:
        features: Unit features S (M, D), float64.
        targets: What is to be explained (M, N).
        beta: Of the kernel exp(beta (x . x' - 1)).
    """

    def __init__(self, features: Tensor, targets: Tensor, beta: float) -> None:
        self._features, self._targets, self._beta = features, targets, beta
        sizes, self._vectors = torch.linalg.eigh(self._kernel(features))
        self._sizes = sizes.clamp(min=0)  # below is rounding
        self._seen = self._vectors.T @ targets  # (M, N)

    def values(self, ridge: float) -> Tensor:
        """Return (K + lambda I)^-1 targets (M, N)."""
        found: Tensor = self._vectors @ (self._seen / (self._sizes + ridge)[:, None])
        return found

    def predict(self, inputs: Tensor, ridge: float) -> Tensor:
        """Return k(x, S) (K + lambda I)^-1 targets (m, N) for unit features (m, D)."""
        return self._kernel(inputs) @ self.values(ridge)

    def leave_one_out(self, ridge: float) -> Tensor:
        """Return what the regression without it predicts for each training feature (M, N).

        The error of the prediction is the value over the diagonal of the inverse (Rasmussen & Williams, 2006,
        equation 5.12).
        """
        diagonal: Tensor = (self._vectors.square() / (self._sizes + ridge)).sum(dim=1)
        return self._targets - self.values(ridge) / diagonal[:, None]

    def _kernel(self, inputs: Tensor) -> Tensor:
        return torch.exp(self._beta * (inputs.double() @ self._features.T - 1))


def _chosen(
    job: Job, settings: ProkerSettings, features: Tensor, targets: Tensor, texts: Tensor
) -> tuple[float, float, dict[str, Choice], HeldOut | None]:
    """Return beta, lambda, how each was chosen, and the logits of training images that were left out to choose them."""
    given = {"beta": settings.beta, "ridge": settings.ridge}
    choices = {name: Choice(value, "fixed", "given") for name, value in given.items() if value is not None}
    if settings.beta is not None and settings.ridge is not None:
        return settings.beta, settings.ridge, choices, None
    betas = _BETAS if settings.beta is None else (settings.beta,)
    ridges = _RIDGES if settings.ridge is None else (settings.ridge,)

    @lru_cache(maxsize=1)
    def regression(beta: float) -> KernelRidge:
        return KernelRidge(features, targets, beta)

    def logits(inputs: Tensor, numbers: tuple[float, float]) -> Tensor:
        beta, ridge = numbers
        return job.scale * (inputs.double() @ texts.T + regression(beta).predict(inputs, ridge))

    def left_out(numbers: tuple[float, float]) -> Tensor:
        beta, ridge = numbers
        return job.scale * (features @ texts.T + regression(beta).leave_one_out(ridge))

    (beta, ridge), both, held_out = choose_value(
        job,
        [(beta, ridge) for beta in betas for ridge in ridges],
        beforehand=(settings.beta or _BEFOREHAND[0], settings.ridge or _BEFOREHAND[1]),
        logits=logits,
        held_out=left_out,
        reason=f"{CROSS_VALIDATED}, leaving out one at a time",
    )
    found = {"beta": replace(both, value=beta), "ridge": replace(both, value=ridge)}
    return beta, ridge, found | choices, held_out


METHOD = Method(fit, ProkerSettings, prompts="trained with", refits=True)
