"""The two towers of a CLIP model, computed leanly: the features of the model's own forward, with less work and memory.

Axis letters: B images, L tokens of an image, N prompts, T rows of a text plan, d the width of a tower, D the width
of the shared space, S the side of an image in pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blocklora.adapter.masks import PartRows
from blocklora.clip.lean.attention import Images, Layout, Prompts
from blocklora.clip.lean.blocks import SEEDS, Block
from blocklora.clip.lean.low_rank import PartSeed, Seed
from blocklora.clip.text_plan import TextPlan

__all__ = ["Keep", "LeanTower"]

Keep = Literal["all", "no-mlp", "inputs"]
"""What a block keeps for backward: all that saves computing, all but the wide inside of the MLP, or its input alone."""


class LeanTower:
    """One tower of a CLIP model.

    Args:
        tower: transformers' ``vision_model`` or ``text_model``, with or without adapters in its layers.
        projection: The linear layer into the shared space.
        dtype: The type to compute in; None is the weights'.
    """

    def __init__(self, tower: Any, projection: nn.Linear, dtype: torch.dtype | None = None) -> None:
        config = tower.config
        self._tower, self._projection = tower, projection
        self._dtype = dtype or projection.weight.dtype
        self._heads = int(config.num_attention_heads)
        self._blocks = [Block(layer, config.hidden_act) for layer in tower.encoder.layers]

    @property
    def trained(self) -> tuple[list[int], tuple[int, int, int, int]]:
        """The blocks whose adapters are trained, and the largest ranks of their (q, k, v), out, fc1 and fc2."""
        with torch.no_grad():
            found = {
                place: [sum(low.ranks) if low else 0 for low in block.factors(self._dtype, training=True)]
                for place, block in enumerate(self._blocks)
                if block.trained
            }
        qkv, out, fc1, fc2 = (max(ranks) for ranks in zip([0] * 4, *found.values(), strict=True))
        return list(found), (qkv, out, fc1, fc2)

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    @property
    def first_trained(self) -> int:
        """The first block that is trained; where none is, how many there are."""
        return next((place for place, block in enumerate(self._blocks) if block.trained), len(self._blocks))

    @torch.no_grad()
    def images_before(self, pixel_values: Tensor) -> Tensor:
        """Compute what goes into the first trained block: rows (B, L, d), from pixel values (B, 3, S, S)."""
        with torch.autocast(pixel_values.device.type, enabled=False):
            tokens = self._embedded(pixel_values)  # (B, L, d)
            batch, length, width = tokens.shape
            x, layout = tokens.view(-1, width), Images(length, self._heads)
            for place in range(self.first_trained):
                x = self._blocks[place](x, layout, None, 0, training=False, recompute_mlp=False)
            rows: Tensor = x.view(batch, length, width)
            return rows

    def _embedded(self, pixel_values: Tensor) -> Tensor:
        """Return the rows that the first block reads (B, L, d)."""
        with torch.no_grad():
            tokens: Tensor = self._tower.pre_layrnorm(self._tower.embeddings(pixel_values))
            return tokens.to(self._dtype)

    def images(
        self, inputs: Tensor, *, seed: int = 0, keep: Keep = "all", part: tuple[int, int] | None = None
    ) -> Tensor:
        """Compute unit features of images.

        Args:
            inputs: Pixel values (B, 3, S, S) on the tower's device, or what ``images_before`` made of them.
            seed: Where dropout masks come from, where the tower is in training mode.
            keep: What blocks keep for backward.
            part: The place of the first of these images among those of a pass, and how many that has: they get the
                masks that they have there. None: they are all of it.

        Returns:
            Unit features (B, D), float32 or wider.
        """
        known = inputs.dim() == 3
        with torch.autocast(inputs.device.type, enabled=False):
            tokens = inputs.to(self._dtype) if known else self._embedded(inputs)  # (B, L, d)
            batch, length, width = tokens.shape
            wanted = torch.arange(batch, device=tokens.device) * length
            start = self.first_trained if known else 0
            masks = seed if part is None else _seed_of_images(seed, *part, batch, length)
            x = self._through(
                tokens.view(-1, width), Images(length, self._heads), wanted, masks, keep, start=start
            )
            return self._out(x, self._tower.post_layernorm)

    @torch.no_grad()
    def texts_before(self, plan: TextPlan) -> Tensor:
        """Compute what goes into the first trained block for prompts: rows (T, d)."""
        with torch.autocast(self._projection.weight.device.type, enabled=False):
            x, layout = self._embedded_words(plan, None), Prompts(plan, self._heads)
            for place in range(self.first_trained):
                x = self._blocks[place](x, layout, None, 0, training=False, recompute_mlp=False)
            return x

    def texts(
        self,
        plan: TextPlan,
        *,
        seed: int = 0,
        keep: Keep = "all",
        context: Tensor | None = None,
        deep: Tensor | None = None,
        before: Tensor | None = None,
    ) -> Tensor:
        """Compute unit features of prompts.

        Args:
            plan: How the prompts are laid out.
            seed: As for ``images``.
            keep: As for ``images``.
            context: Vectors (P, d) that replace the tokens after the first one; all within the plan's opening.
            deep: Vectors (J, P, d) that replace the same rows before blocks 1 to J.
            before: What ``texts_before`` gave for the plan, where there are no vectors.

        Returns:
            Unit features (N, D), in the order of the prompts.
        """
        device = self._projection.weight.device
        with torch.autocast(device.type, enabled=False):
            x = self._embedded_words(plan, context) if before is None else before  # (T, d)
            start = 0 if before is None else self.first_trained
            layout, ends = Prompts(plan, self._heads), plan.ends.to(device)
            masks = seed if plan.part is None else PartSeed(seed, *plan.part)
            x = self._through(x, layout, ends, masks, keep, deep, start=start)
            return self._out(x, self._tower.final_layer_norm)[plan.back.to(device)]

    def _embedded_words(self, plan: TextPlan, context: Tensor | None) -> Tensor:
        """Return the rows that the first block reads (T, d); ``context`` as for ``texts``."""
        device, embeddings = self._projection.weight.device, self._tower.embeddings
        with torch.no_grad():
            x = embeddings.token_embedding(plan.ids.to(device))
            positions = embeddings.position_embedding(plan.positions.to(device))
        rows: Tensor = _with_vectors(x, context) + positions
        return rows.to(self._dtype)

    def _through(
        self,
        x: Tensor,
        layout: Layout,
        wanted: Tensor,
        seed: Seed,
        keep: Keep,
        deep: Tensor | None = None,
        start: int = 0,
    ) -> Tensor:
        """Send rows (T, d) through all blocks from ``start`` on; the last returns the wanted rows only (B or N, d)."""
        grad = False
        for place, block in enumerate(self._blocks):
            if place < start:
                continue
            if deep is not None and 1 <= place <= len(deep):
                x = _with_vectors(x, deep[place - 1])
            grad = grad or block.trained  # below the first trained block there is nothing to keep
            last = place == len(self._blocks) - 1
            run = partial(
                block,
                layout=layout,
                rows=wanted if last else None,
                seed=seed + SEEDS * place,
                training=self._tower.training,
                recompute_mlp=keep == "no-mlp",
            )
            if keep == "inputs" and grad and torch.is_grad_enabled():
                x = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = run(x)
        return x

    def _out(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Turn the wanted rows (B or N, d) into unit features (B or N, D), in full precision."""
        wide = torch.promote_types(x.dtype, norm.weight.dtype)
        features = F.linear(norm(x.to(wide)), self._projection.weight.to(wide))
        return F.normalize(features, dim=-1)


def _seed_of_images(seed: int, first: int, of: int, count: int, length: int) -> PartSeed:
    """Return the seed of ``count`` images from ``first`` on among ``of``, of ``length`` rows each."""
    last = first + count
    return PartSeed(
        seed, PartRows(of * length, ((first * length, last * length),)), PartRows(of, ((first, last),))
    )


def _with_vectors(x: Tensor, vectors: Tensor | None) -> Tensor:
    """Put vectors (P, d) in the place of the rows behind the first of x (T, d)."""
    return x if vectors is None else torch.cat([x[:1], vectors.to(x.dtype), x[1 + len(vectors) :]])
