"""Tip-Adapter: a cache of the few labelled images beside CLIP's prompts, without training (Zhang et al., 2022).

Recipe (gaopengcuhk/Tip-Adapter): a cached image's key is the mean of its features over 10 augmented passes, crops of
50% to 100%, normalised; 200 values of beta and 20 of alpha are tried.
Deviations: they are chosen on validation images, as in the paper, equal accuracies by the log loss; without any, they
are the paper's 1.0 and 5.5. The logit scale is the model's own, not a constant 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import Head
from blocklora.core.choices import Choice
from blocklora.methods.frozen.features import (
    FeatureSettings,
    accuracy,
    labels_of,
    training_features,
    validation_features,
)
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_positive

__all__ = ["ALPHA", "BETA", "METHOD", "TipAdapterSettings", "cache_head", "cache_of", "choose", "fit"]

ALPHA, BETA = 1.0, 5.5
_ALPHAS, _BETAS = 20, 200


@dataclass(frozen=True)
class TipAdapterSettings(FeatureSettings):
    """How to build the cache; the other attributes are those of ``FeatureSettings``.

    Attributes:
        alpha: How much the cache counts; None chooses it on validation images. With 0 this is zero-shot.
        beta: How fast a cached image's weight falls with its distance; None chooses it on validation images.
        largest_alpha: Where the values that are tried end; they begin at 0.1.
        largest_beta: The same of beta.
    """

    alpha: float | None = None
    beta: float | None = None
    largest_alpha: float = 3.0
    largest_beta: float = 7.0

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_positive(self, "alpha", zero=True)
        need_positive(self, "beta", "largest_alpha", "largest_beta")


def fit(job: Job, settings: TipAdapterSettings) -> FitResult:
    """Build the cache."""
    tensors = cache_of(training_features(job, settings), job) | {"class_features": job.written_classes}
    chosen = choose(
        tensors,
        job.scale,
        *validation_features(job),
        alpha=settings.alpha,
        beta=settings.beta,
        largest=(settings.largest_alpha, settings.largest_beta),
    )
    return FitResult(
        job.classifier(head=cache_head(tensors, job.scale, chosen)),
        0,
        {**chosen, "kept step": Choice(0, "fixed", "nothing was trained")},
    )


def cache_head(tensors: Mapping[str, Tensor], scale: float, chosen: Mapping[str, Choice]) -> Head:
    """Return the head of a cache of M features (M, D), with the alpha and beta that were chosen."""
    numbers = {name: _number(one) for name, one in chosen.items()}
    return Head("cache", tensors, {"scale": scale} | numbers)


def cache_of(features: Tensor, job: Job) -> dict[str, Tensor]:
    """Return the keys (K, D) and one-hot values (K, N) of a cache, from features (V, K, D) of all passes."""
    keys = F.normalize(features.mean(dim=0), dim=-1)
    return {"keys": keys, "values": F.one_hot(labels_of(job.task.train), len(job.task.class_names)).float()}


def choose(
    tensors: Mapping[str, Tensor],
    scale: float,
    features: Tensor,
    labels: Tensor,
    *,
    alpha: float | None,
    beta: float | None,
    largest: tuple[float, float],
) -> dict[str, Choice]:
    """Choose alpha and beta by accuracy on validation images; of equals those with the smallest log loss.

    Args:
        tensors: Of the head: ``class_features``, ``keys``, ``values``.
        scale: CLIP's logit scale.
        features: Of the validation images (M, D); empty where there are none.
        labels: Of the validation images (M,).
        alpha: Given beforehand, or None.
        beta: Given beforehand, or None.
        largest: Where the values of alpha and beta that are tried end.

    Returns:
        How ``alpha`` and ``beta`` were chosen.
    """
    given = {"alpha": alpha, "beta": beta}
    choices = {name: Choice(value, "fixed", "given") for name, value in given.items() if value is not None}
    if not len(labels):
        why = "there are no validation images to choose it by"
        return {"alpha": Choice(ALPHA, "fixed", why), "beta": Choice(BETA, "fixed", why)} | choices
    if len(choices) == len(given):
        return choices
    alphas = [alpha] if alpha is not None else _steps(largest[0], _ALPHAS)
    betas = [beta] if beta is not None else _steps(largest[1], _BETAS)
    there = {name: tensor.to(features.device) for name, tensor in tensors.items()}
    zero_shot = scale * features @ there["class_features"].T  # (M, N)
    affinity = features @ there["keys"].T  # (M, K)
    best = (-1.0, 0.0, 0.0, 0.0)  # accuracy, minus the log loss, alpha, beta
    for b in betas:
        cached = torch.exp(b * (affinity - 1)) @ there["values"]  # (M, N)
        for a in alphas:
            logits = zero_shot + a * cached
            score = accuracy(logits, labels)
            if score >= best[0]:
                best = max(best, (score, -float(F.cross_entropy(logits, labels)), a, b), key=_rank)
    tried, n = len(alphas) * len(betas), len(labels)
    found = {
        name: Choice(value, "validation", "", n, tried, best[0], "accuracy")
        for name, value in (("alpha", best[2]), ("beta", best[3]))
    }
    return found | choices


def _number(choice: Choice) -> float:
    """Return a chosen number."""
    value = choice.value
    if not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, not {value!r}")
    return float(value)


def _rank(candidate: tuple[float, float, float, float]) -> tuple[float, float]:
    """Return what candidates are compared by; of equals ``max`` takes the first."""
    return candidate[:2]


def _steps(largest: float, n: int) -> list[float]:
    """Return n evenly spaced values from 0.1 on, below ``largest``."""
    return [0.1 + i * (largest - 0.1) / n for i in range(n)]


METHOD = Method(fit, TipAdapterSettings, prompts="trained with")
