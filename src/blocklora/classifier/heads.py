"""What turns image features into logits: a handful of pure functions, and the tensors that belong to one.

Axes: M = images, N = classes, D = the width of the shared space, K = keys of a cache, H = hidden units, P = learned
vectors, W = the width of the text tower, L = tokens.
Image features are unit vectors everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.class_prompts import ClassPrompts

__all__ = [
    "CONDITIONAL",
    "HEADS",
    "ROWS",
    "Head",
    "HeadKind",
    "adapted_logits",
    "cache_logits",
    "conditional_logits",
    "cosine_head",
    "cosine_logits",
    "linear_logits",
]

CONDITIONAL = "conditional"
"""The one kind that runs the text tower for every image."""

ROWS = 1024
"""Images at a time: a cache of all ImageNet shots would else need gigabytes."""


def cosine_logits(features: Tensor, class_features: Tensor, scale: float | Tensor) -> Tensor:
    """Return scaled cosines (M, N): CLIP's own classifier (Radford et al., 2021).

    Args:
        features: Unit image features (M, D).
        class_features: Unit features of the classes (N, D).
        scale: What cosines are multiplied by; CLIP's logit scale, 100 in OpenAI's models.
    """
    return scale * features @ class_features.T


def linear_logits(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``features @ weight.T + bias`` (M, N); ``weight`` is (N, D), ``bias`` (N,)."""
    return features @ weight.T + bias


def cache_logits(
    features: Tensor,
    class_features: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """Return CLIP's logits plus what a cache of labelled images adds (Tip-Adapter, Zhang et al. 2022, eq. 5).

    Args:
        features: Unit image features (M, D).
        class_features: Unit features of the classes (N, D).
        keys: Features of the cached images (K, D).
        values: Their labels, one-hot (K, N).
        scale: CLIP's logit scale.
        alpha: How much the cache counts; with 0 this is zero-shot.
        beta: How fast a cached image's weight falls with its distance.
    """
    affinity = features @ keys.T  # (M, K)
    return cosine_logits(features, class_features, scale) + alpha * torch.exp(beta * (affinity - 1)) @ values


def adapted_logits(
    features: Tensor, class_features: Tensor, down: Tensor, up: Tensor, scale: float, ratio: float
) -> Tensor:
    """Return the cosines of features that went through a bottleneck (CLIP-Adapter, Gao et al. 2021, eq. 5 to 7).

    Args:
        features: Unit image features (M, D).
        class_features: Unit features of the classes (N, D).
        down: The bottleneck's first weights (H, D).
        up: Its second weights (D, H).
        scale: CLIP's logit scale.
        ratio: The bottleneck's share, in [0, 1]; with 0 this is zero-shot.
    """
    hidden = F.relu(F.relu(features @ down.T) @ up.T)  # (M, D)
    mixed = ratio * hidden + (1 - ratio) * features
    return cosine_logits(F.normalize(mixed, dim=-1), class_features, scale)


def conditional_logits(
    features: Tensor,
    *,
    prompts: ClassPrompts,
    context: Tensor,
    down: Tensor,
    down_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    scale: float,
) -> Tensor:
    """Return cosines with class features that each image's own prompts give (CoCoOp, Zhou et al. 2022b, eq. 3).

    Args:
        features: Unit image features (M, D).
        prompts: The class prompts, with room for the vectors.
        context: The learned vectors (P, W), W being the text tower's width.
        down: First weights of the network that shifts them (H, D).
        down_bias: (H,).
        up: Second weights (W, H).
        up_bias: (W,).
        scale: CLIP's logit scale.
    """
    shifts = F.linear(F.relu(F.linear(features, down, down_bias)), up, up_bias)  # (M, W)
    pairs = zip(features, shifts, strict=True)
    return torch.stack(
        [cosine_logits(feature, prompts.features(context + shift), scale) for feature, shift in pairs]
    )


@dataclass(frozen=True)
class HeadKind:
    """A kind of head.

    Attributes:
        logits: The function; a head's tensors and numbers are its arguments, by name.
        tensors: The axes of each tensor, by name.
        numbers: The names of its plain numbers.
    """

    logits: Callable[..., Tensor]
    tensors: Mapping[str, str]
    numbers: frozenset[str] = frozenset()


HEADS = {
    "cosine": HeadKind(cosine_logits, {"class_features": "ND"}, frozenset({"scale"})),
    "linear": HeadKind(linear_logits, {"weight": "ND", "bias": "N"}),
    "cache": HeadKind(
        cache_logits,
        {"class_features": "ND", "keys": "KD", "values": "KN"},
        frozenset({"scale", "alpha", "beta"}),
    ),
    "bottleneck": HeadKind(
        adapted_logits,
        {"class_features": "ND", "down": "HD", "up": "DH"},
        frozenset({"scale", "ratio"}),
    ),
    CONDITIONAL: HeadKind(
        conditional_logits,
        {"context": "PW", "down": "HD", "down_bias": "H", "up": "WH", "up_bias": "W", "tokens": "NL"},
        frozenset({"scale"}),
    ),
}
"""Every kind of head. The tokens of a conditional head become its prompts."""


@dataclass(frozen=True)
class Head:
    """A classifier on image features.

    Attributes:
        kind: A name in ``HEADS``.
        tensors: The function's tensors, on the CPU.
        numbers: Its plain numbers.
        model: The ``CLIPModel`` of a conditional head; None for all others.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    model: Any = None

    def check(self, n_classes: int, width: int) -> None:
        """Check that the tensors and numbers are those of the kind, and fit each other.

        Args:
            n_classes: N.
            width: D.

        Raises:
            ValueError: A tensor or number is missing, unknown, or of another shape; it is named.
        """
        kind = HEADS[self.kind]
        _need_names("tensor", self.tensors, kind.tensors)
        _need_names("number", self.numbers, kind.numbers)
        sizes = {"N": n_classes, "D": width}
        for name, axes in kind.tensors.items():
            shape = tuple(self.tensors[name].shape)
            fits = len(shape) == len(axes)
            if not fits or any(sizes.setdefault(axis, n) != n for axis, n in zip(axes, shape, strict=True)):
                expected = ", ".join(f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in axes)
                raise ValueError(f"the head's tensor '{name}' is {shape} instead of ({expected})")

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Turn image features (M, D) into logits (M, N), in float64 on the CPU."""
        logits = HEADS[self.kind].logits
        if self.kind == CONDITIONAL:
            device = self.model.logit_scale.device
            there = {name: tensor.to(device) for name, tensor in self.tensors.items()}
            prompts = ClassPrompts(self.model, there.pop("tokens"))
            return logits(features.to(device), prompts=prompts, **there, **self.numbers).cpu().double()
        # Rows one after another, as in a file: a saved head gives the same bits.
        tensors = {name: tensor.double().contiguous() for name, tensor in self.tensors.items()}
        parts = torch.split(features, ROWS)
        return torch.cat([logits(part.double(), **tensors, **self.numbers) for part in parts])


def cosine_head(class_features: Tensor, scale: float) -> Head:
    """Return CLIP's own head for unit class features (N, D)."""
    return Head("cosine", {"class_features": class_features}, {"scale": scale})


def _need_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Raise unless two sets of names are the same."""
    given, expected = set(given), set(expected)
    if given != expected:
        name = min(given ^ expected)
        fault = "is missing" if name in expected else "belongs to no head of this kind"
        raise ValueError(f"the head's {what} '{name}' {fault}; expected {', '.join(sorted(expected))}")
