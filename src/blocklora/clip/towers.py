"""Both towers of a dual encoder, as training sees them: lean where that is possible, else transformers' own forward.

Axis letters: B images, N prompts, L tokens of the longest, D the width of the shared space, S the side of an image.

Either engine takes the text side in passes, and draws its dropout masks from a seed: a pass that is run a second time
with the same seed meets the same masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from blocklora.clip._plain import plain_image_features, plain_text_features
from blocklora.clip.lean import Keep, LeanTower, why_not_lean
from blocklora.clip.text_plan import text_plans
from blocklora.core.errors import ConfigError

__all__ = [
    "Engine",
    "LeanTowers",
    "PlainTowers",
    "Towers",
    "autocast_dtype",
    "make_towers",
    "trains",
    "why_plain",
]

Engine = Literal["auto", "lean", "plain"]


class Towers(Protocol):
    """What training needs of a model.

    Attributes:
        model: The model whose towers these are.
        engine: ``lean`` or ``plain``.
        why: Why not lean, in words; empty where lean or where nobody asked for lean.
    """

    model: Any
    engine: str
    why: str

    def images(
        self,
        pixel_values: Tensor,
        *,
        seed: int = 0,
        keep: Keep = "all",
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """Unit features (B, D) of pixel values (B, 3, S, S) on the model's device.

        ``part``: the place of the first of these images among those of a pass, and how many that has, where these are
        not all of it; the lean engine alone can do that.
        """
        ...

    def passes(self, tokens: Tensor, chunk: int | None = None) -> Sequence[tuple[Tensor, Any]]:
        """Cut prompts (N, L) into passes of at most ``chunk``: the indices of each, and what ``texts`` takes."""
        ...

    def texts(self, one_pass: Any, *, seed: int = 0, keep: Keep = "all") -> Tensor:
        """Unit features (n, D) of the n prompts of one pass, in the order of its indices."""
        ...


class LeanTowers:
    """The lean engine; see ``clip.lean``.

    Args:
        model: A ``CLIPModel`` for which ``why_not_lean`` is None.
        dtype: The type to compute in; None is the weights'.
        prefix_sharing: Whether the opening that all prompts share is computed once.
    """

    engine, why = "lean", ""

    def __init__(self, model: Any, *, dtype: torch.dtype | None = None, prefix_sharing: bool = True) -> None:
        self.model, self.prefix_sharing = model, prefix_sharing
        self.dtype = dtype or model.visual_projection.weight.dtype
        self._images = LeanTower(model.vision_model, model.visual_projection, dtype)
        self._texts = LeanTower(model.text_model, model.text_projection, dtype)
        self._before: dict[
            int, tuple[Any, Tensor]
        ] = {}  # by a pass's id; it is kept, too, so that its id stays

    @property
    def trained(self) -> dict[str, tuple[list[int], tuple[int, int, int, int]]]:
        """What ``LeanTower.trained`` says of each tower: ``vision`` and ``text``."""
        return {"vision": self._images.trained, "text": self._texts.trained}

    def images(
        self,
        pixel_values: Tensor,
        *,
        seed: int = 0,
        keep: Keep = "all",
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """See ``Towers``; what ``images_before`` gave is taken, too."""
        return self._images.images(pixel_values, seed=seed, keep=keep, part=part)

    def images_before(self, pixel_values: Tensor) -> Tensor:
        """Rows (B, L, d) that go into the first trained block of the image tower; nothing random is in them."""
        return self._images.images_before(pixel_values)

    def passes(self, tokens: Tensor, chunk: int | None = None) -> Sequence[tuple[Tensor, Any]]:
        """See ``Towers``; prompts of similar length come together."""
        end = int(self.model.text_model.config.eos_token_id)
        return text_plans(tokens, end, chunk=chunk or len(tokens), share=self.prefix_sharing)

    def texts(self, one_pass: Any, *, seed: int = 0, keep: Keep = "all") -> Tensor:
        """See ``Towers``; what goes into the first trained block never changes, and is computed once a pass."""
        if not 0 < self._texts.first_trained < self._texts.depth:
            return self._texts.texts(one_pass, seed=seed, keep=keep)
        if id(one_pass) not in self._before:
            self._before[id(one_pass)] = one_pass, self._texts.texts_before(one_pass)
        return self._texts.texts(one_pass, seed=seed, keep=keep, before=self._before[id(one_pass)][1])


class PlainTowers:
    """transformers' own forward; it always keeps everything for backward.

    Args:
        model: Any model that ``image_features`` and ``text_features`` take.
        dtype: The type that autocast computes in; None: no autocast.
        why: Why the lean engine was not taken.
    """

    engine = "plain"

    def __init__(self, model: Any, *, dtype: torch.dtype | None = None, why: str = "") -> None:
        self.model, self.why, self._dtype = model, why, dtype
        self._device = next(model.parameters()).device

    def images(
        self,
        pixel_values: Tensor,
        *,
        seed: int = 0,
        keep: Keep = "all",
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """See ``Towers``."""
        if part is not None:
            raise ValueError("the ordinary forward draws no masks for a part of a pass")
        with self._seeded(seed):
            return _wide(plain_image_features(self.model, pixel_values))

    def passes(self, tokens: Tensor, chunk: int | None = None) -> Sequence[tuple[Tensor, Any]]:
        """See ``Towers``."""
        rows = torch.split(torch.arange(len(tokens)), chunk or len(tokens))
        return [(part, tokens[part].to(self._device)) for part in rows]

    def texts(self, one_pass: Any, *, seed: int = 0, keep: Keep = "all") -> Tensor:
        """See ``Towers``."""
        with self._seeded(seed):
            return _wide(plain_text_features(self.model, one_pass))

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Compute in the precision; in training, seed torch's random stream, which dropout draws from, for one pass."""
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            if not self.model.training:
                yield
                return
            with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
                torch.manual_seed(seed)
                yield


def make_towers(
    model: Any, *, engine: Engine = "auto", dtype: torch.dtype | None = None, prefix_sharing: bool = True
) -> Towers:
    """Choose the engine for a model with the adapters it has now.

    Args:
        model: A dual encoder, with or without adapters in its layers.
        engine: ``auto`` is lean where that is possible.
        dtype: 16-bit type to compute in; None is the weights' own type.
        prefix_sharing: See ``LeanTowers``.

    Raises:
        ConfigError: ``lean`` was asked for and is not possible; the message says why.
    """
    why = why_plain(model, engine)
    if why is None:
        return LeanTowers(model, dtype=dtype, prefix_sharing=prefix_sharing)
    return PlainTowers(model, dtype=dtype, why=why)


def why_plain(model: Any, engine: Engine) -> str | None:
    """Say why a model runs on transformers' own forward.

    Args:
        model: A model of one of the ``FAMILIES``, or its image tower.
        engine: What was asked for.

    Returns:
        None: it runs lean. Otherwise the reason; empty where ``plain`` was asked for.

    Raises:
        ConfigError: ``lean`` was asked for and is not possible; the message says why.
    """
    if engine == "plain":
        return ""
    why = why_not_lean(model)
    if engine == "lean" and why:
        raise ConfigError(f"engine 'lean' cannot run this model: {why}; use --engine auto or plain.")
    return why


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the type that autocast computes in where it is on."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _wide(features: Tensor) -> Tensor:
    """Return features in float32, or in their own type where it is wider."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def trains(part: nn.Module) -> bool:
    """Return whether anything in a part of a model is trained."""
    return any(parameter.requires_grad for parameter in part.parameters())
