"""Class prompts with room for learned vectors: the vectors, the class name and a full stop.

Axes: N = classes, L = tokens, P = learned vectors, W = the width of the text tower, D = that of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.clip import Clip
from blocklora.clip.lean import LeanTower, why_not_lean
from blocklora.clip.prompted import end_of_text, prompted_text_features, token_embeddings
from blocklora.clip.text_plan import TextPlan, text_plan
from blocklora.clip.towers import autocast_dtype
from blocklora.core.errors import ConfigError
from blocklora.data import prompts

__all__ = ["ClassPrompts", "conditional_logits", "cut_notes", "prompt_tokens"]


@dataclass(frozen=True)
class ClassPrompts:
    """Embedded class prompts, some of whose words are learned.

    All classes share the vectors, so where the model allows it they go through the lean text tower once, as a part of
    the prompts' common opening; else through transformers' own layers, once for every class.

    Attributes:
        model: A ``CLIPModel``.
        tokens: Token ids (N, L); the vectors take the places from 1 on.
        notes: What a person should know of them, in sentences.
    """

    model: Any
    tokens: Tensor
    notes: tuple[str, ...] = ()

    def features(self, context: Tensor, deep: Tensor | None = None) -> Tensor:
        """Return unit features (N, D) of the classes with learned vectors (P, W), and deeper ones (J - 1, P, W)."""
        plan = self._plan
        if plan and plan.opening > len(context):
            dtype = autocast_dtype(context.device)
            tower = LeanTower(self.model.text_model, self.model.text_projection, dtype)
            return tower.texts(plan, context=context, deep=deep)
        embedded = token_embeddings(self.model, self.tokens)  # (N, L, W)
        learned = context.expand(len(embedded), -1, -1)  # (N, P, W)
        filled = torch.cat([embedded[:, :1], learned, embedded[:, 1 + learned.shape[1] :]], dim=1)
        return prompted_text_features(self.model, filled, end_of_text(self.model, self.tokens), deep)

    @cached_property
    def _plan(self) -> TextPlan | None:
        """The prompts as the lean text tower lays them out; None where it cannot run this model."""
        if why_not_lean(self.model):
            return None
        return text_plan(self.tokens.cpu(), int(self.model.text_model.config.eos_token_id), share=True)


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
    return torch.stack([scale * feature @ prompts.features(context + shift).T for feature, shift in pairs])


def prompt_tokens(
    clip: Clip, class_names: Sequence[str], words: str, n_context: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the token ids (N, L) of prompts whose first words are to be learned, and the names that had to be cut.

    The end-of-text token of a cut prompt stays.

    Args:
        clip: The tokenizer and how much the text tower reads.
        class_names: N names; "_" becomes a space.
        words: What stands before the name; empty makes room for ``n_context`` vectors that start at random.
        n_context: P, where there are no words.

    Raises:
        ConfigError: The text tower does not read so many tokens.
    """
    first, *of_words, end = clip.tokenizer(words)["input_ids"]
    before = of_words or [first] * n_context  # no end-of-text among them: that is where the tower is read
    length = clip.context_length
    if len(before) + 3 > length:
        raise ConfigError(
            f"n_context '{n_context}': expected at most {length - 3}, for the text tower reads {length} tokens."
        )
    names = [clip.tokenizer(name)["input_ids"][1:-1] for name in prompts(class_names, "{}.")]
    cut = tuple(
        name for name, ids in zip(class_names, names, strict=True) if len(before) + len(ids) > length - 2
    )
    rows = [[*[first, *before, *name][: length - 1], end] for name in names]
    longest = max(map(len, rows))
    return torch.tensor([row + [end] * (longest - len(row)) for row in rows]), cut


def cut_notes(cut: Sequence[str], length: int) -> tuple[str, ...]:
    """Say that class prompts were cut at ``length`` tokens; nothing where there are none."""
    if not cut:
        return ()
    return (
        f"{len(cut)} class prompts, e.g. that of '{cut[0]}', are longer than the {length} tokens that the text tower "
        "reads, with the learned vectors before the name; their ends were cut",
    )
