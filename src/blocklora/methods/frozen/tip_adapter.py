"""Tip-Adapter: a cache of the few labelled pictures beside CLIP's prompts, without training (Zhang et al., 2022).

Recipe (gaopengcuhk/Tip-Adapter): a cached picture's key is the mean of its features over 10 augmented passes, crops of
50% to 100%, normalised; 200 values of beta and 20 of alpha are tried.
Deviations: they are chosen on validation pictures, as in the paper; without any, they are the paper's 1.0 and 5.5.
The logit scale is the model's own, not a constant 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.heads import Head
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.frozen.on_features import (
    accuracy,
    labels_of,
    train_features,
    val_features,
    written_classes,
)
from blocklora.methods.settings import need_positive, need_share, need_whole
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep
from blocklora.training.pictures import Augment

__all__ = ["ALPHA", "BETA", "Settings", "cache_of", "choose", "fit"]

ALPHA, BETA = 1.0, 5.5
_ALPHAS, _BETAS = 20, 200


@dataclass(frozen=True)
class Settings:
    """How to build the cache.

    Attributes:
        alpha: How much the cache counts; None chooses it on validation pictures. With 0 this is zero-shot.
        beta: How fast a cached picture's say falls with its distance; None chooses it on validation pictures.
        largest_alpha: Where the values that are tried end; they begin at 0.1.
        largest_beta: The same of beta.
        passes: Augmented passes over the pictures.
        smallest_crop: Its share of a picture's area, in (0, 1].
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where mirroring changes the
            class.
    """

    alpha: float | None = None
    beta: float | None = None
    largest_alpha: float = 3.0
    largest_beta: float = 7.0
    passes: int = 10
    smallest_crop: float = 0.5
    augment: Augment | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "passes")
        need_positive(self, "alpha", zero=True)
        need_positive(self, "beta", "largest_alpha", "largest_beta")
        need_share(self, "smallest_crop")


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
    """Build the cache; see ``Method``."""
    features = train_features(
        task,
        clip,
        compute,
        augment=options.augment,
        passes=options.passes,
        smallest=options.smallest_crop,
        seed=seed,
    )
    tensors = cache_of(features, task) | {"class_features": written_classes(task, clip)}
    numbers, why = choose(
        tensors,
        float(clip.model.logit_scale.detach().exp()),
        *val_features(task, clip, compute),
        alpha=options.alpha,
        beta=options.beta,
        largest=(options.largest_alpha, options.largest_beta),
    )
    return Fitted(
        model=clip.model,
        class_features=tensors["class_features"],
        trainable_parameters=0,
        training=None,
        selection={"alpha, beta": why, "kept step": "nothing was trained"},
        head=Head("cache", tensors, numbers),
    )


def cache_of(features: Tensor, task: Task) -> dict[str, Tensor]:
    """Return the keys (K, D) and one-hot values (K, N) of a cache, from features (V, K, D) of all passes."""
    keys = F.normalize(features.mean(dim=0), dim=-1)
    return {"keys": keys, "values": F.one_hot(labels_of(task.train), len(task.class_names)).float()}


def choose(
    tensors: dict[str, Tensor],
    scale: float,
    features: Tensor,
    labels: Tensor,
    *,
    alpha: float | None,
    beta: float | None,
    largest: tuple[float, float],
) -> tuple[dict[str, float], str]:
    """Choose alpha and beta on validation pictures, the smallest of equals.

    Args:
        tensors: Of the head: ``class_features``, ``keys``, ``values``.
        scale: CLIP's logit scale.
        features: Of the validation pictures (M, D); empty where there are none.
        labels: Of the validation pictures (M,).
        alpha: Given beforehand, or None.
        beta: Given beforehand, or None.
        largest: Where the values of alpha and beta that are tried end.

    Returns:
        The head's numbers, and how they were chosen.
    """
    given = {
        "scale": scale,
        "alpha": ALPHA if alpha is None else alpha,
        "beta": BETA if beta is None else beta,
    }
    said = f"{given['alpha']:.3g} and {given['beta']:.3g}"
    if alpha is not None and beta is not None:
        return given, f"{said}, given beforehand"
    if not len(labels):
        return given, f"{said}, fixed: there are no validation pictures to choose them by"
    alphas = [alpha] if alpha is not None else _steps(largest[0], _ALPHAS)
    betas = [beta] if beta is not None else _steps(largest[1], _BETAS)
    there = {name: tensor.to(features.device) for name, tensor in tensors.items()}
    zero_shot = scale * features @ there["class_features"].T  # (M, N)
    affinity = features @ there["keys"].T  # (M, K)
    best = (-1.0, 0.0, 0.0)
    for b in betas:
        cached = torch.exp(b * (affinity - 1)) @ there["values"]  # (M, N)
        for a in alphas:
            score = accuracy(zero_shot + a * cached, labels)
            best = (score, a, b) if score > best[0] else best
    score, a, b = best
    tried = len(alphas) * len(betas)
    why = f"{a:.3g} and {b:.3g}, the best of {tried} on {len(labels)} validation pictures ({score:.1%})"
    return {"scale": scale, "alpha": a, "beta": b}, why


def _steps(largest: float, n: int) -> list[float]:
    """Return n evenly spaced values from 0.1 on, below ``largest``."""
    return [0.1 + i * (largest - 0.1) / n for i in range(n)]
