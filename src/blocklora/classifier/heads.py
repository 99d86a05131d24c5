"""What turns image features into logits: a handful of pure functions, and the tensors that belong to one.

Axes: M = images, N = classes, D = the width of the shared space, K = keys of a cache, H = hidden units, P = learned
vectors, W = the width of the text tower, L = tokens.
Image features are unit vectors everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.class_prompts import ClassPrompts, conditional_logits

__all__ = [
    "CONDITIONAL",
    "HEADS",
    "MIXTURE",
    "ROWS",
    "Head",
    "HeadKind",
    "Member",
    "adapted_logits",
    "cache_logits",
    "cosine_head",
    "cosine_logits",
    "linear_logits",
    "mixed_logits",
    "mixture_head",
]

CONDITIONAL = "conditional"
"""The one kind that runs the text tower for every image."""

MIXTURE = "mixture"
"""The one kind that is made of other heads."""

MOST_MEMBERS = 3
_ROUNDING = 1e-6
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


def mixed_logits(each: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the logarithm of the weighted mean of probabilities (M, N).

    Args:
        each: Logits (M, N) of every member, divided by its temperature.
        weights: One each, above 0, with the sum 1.
    """
    parts = [
        math.log(weight) + logits.log_softmax(dim=1) for logits, weight in zip(each, weights, strict=True)
    ]
    return torch.logsumexp(torch.stack(parts), dim=0)


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
    MIXTURE: HeadKind(mixed_logits, {}),
}
"""Every kind of head. The tokens of a conditional head become its prompts; a mixture has members, and nothing else."""


@dataclass(frozen=True)
class Head:
    """A classifier on image features.

    Attributes:
        kind: A name in ``HEADS``.
        tensors: The function's tensors, on the CPU.
        numbers: Its plain numbers.
        model: The ``CLIPModel`` of a conditional head; None for all others.
        members: The heads of a mixture; none for all others.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    model: Any = None
    members: tuple[Member, ...] = ()

    @property
    def all_tensors(self) -> dict[str, Tensor]:
        """The tensors to be written, those of member 0 of a mixture as ``0/NAME``."""
        of_members = {
            f"{place}/{name}": tensor
            for place, member in enumerate(self.members)
            for name, tensor in member.head.tensors.items()
        }
        return {**self.tensors, **of_members}

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
        if self.kind == MIXTURE:
            _check_members(self.members, n_classes, width)
        elif self.members:
            raise ValueError(f"a head of the kind {self.kind} has no members")

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Turn image features (M, D) into logits (M, N), in float64 on the CPU.

        A mixture also takes (M, 2, D): adapted features, and the base model's for the members that read those.
        """
        if self.kind == MIXTURE:
            both = features if features.ndim == 3 else torch.stack([features, features], dim=1)
            each = [m.head.logits(both[:, int(m.base)]) / m.temperature for m in self.members]
            return mixed_logits(each, [member.weight for member in self.members])
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


@dataclass(frozen=True)
class Member:
    """One head of a mixture.

    Attributes:
        head: Of any kind but a mixture or a conditional one.
        weight: Of its probabilities, above 0; those of a mixture have the sum 1.
        temperature: What its logits are divided by.
        base: Whether it reads the base model's image features, not the adapted ones.
    """

    head: Head
    weight: float
    temperature: float
    base: bool


def mixture_head(members: Sequence[Member]) -> Head:
    """Return a head whose probabilities are the weighted mean of those of two or three heads."""
    return Head(MIXTURE, {}, members=tuple(members))


def cosine_head(class_features: Tensor, scale: float) -> Head:
    """Return CLIP's own head for unit class features (N, D)."""
    return Head("cosine", {"class_features": class_features}, {"scale": scale})


def _check_members(members: Sequence[Member], n_classes: int, width: int) -> None:
    """Raise a ValueError unless heads can be a mixture."""
    if not 2 <= len(members) <= MOST_MEMBERS:
        raise ValueError(f"the mixture has {len(members)} members; expected 2 to {MOST_MEMBERS}")
    for place, member in enumerate(members):
        if member.head.kind in (MIXTURE, CONDITIONAL):
            raise ValueError(f"member {place} of the mixture is a head of the kind {member.head.kind}")
        if not 0 < member.temperature < math.inf:
            raise ValueError(
                f"the temperature of member {place} is {member.temperature}; expected it above 0"
            )
        if not 0 < member.weight <= 1:
            raise ValueError(f"the weight of member {place} is {member.weight}; expected it above 0, up to 1")
        try:
            member.head.check(n_classes, width)
        except ValueError as error:
            raise ValueError(f"member {place} of the mixture: {error}") from error
    if abs(sum(member.weight for member in members) - 1) > _ROUNDING:
        raise ValueError("the weights of the mixture do not have the sum 1")


def _need_names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Raise unless two sets of names are the same."""
    given, expected = set(given), set(expected)
    if given != expected:
        name = min(given ^ expected)
        fault = "is missing" if name in expected else "belongs to no head of this kind"
        raise ValueError(f"the head's {what} '{name}' {fault}; expected {', '.join(sorted(expected))}")
