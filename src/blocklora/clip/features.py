"""Features of images and prompts, for every family of models: the one door to a model's two towers.

Axes: B = images, N = prompts, L = tokens of the longest prompt, D = the width of the space that both towers share,
S = side of an image in pixels.

Nothing here changes a model or torch's random state, so that many threads may use one model at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blocklora.clip._plain import plain_image_features, plain_text_embeddings, plain_text_features
from blocklora.clip.lean import LeanTower
from blocklora.clip.towers import Engine, LeanTowers, autocast_dtype, make_towers, why_plain
from blocklora.core.errors import ConfigError

__all__ = [
    "class_features",
    "image_features",
    "text_embeddings",
    "text_features",
    "tokenize",
]


def tokenize(prompts: Sequence[str], tokenizer: Any, length: int) -> tuple[torch.Tensor, list[str]]:
    """Turn prompts into token ids, padded to the longest of them.

    A prompt of more than ``length`` tokens is cut at the end; its end-of-text token stays.

    Args:
        prompts: N sentences.
        tokenizer: The checkpoint's tokenizer.
        length: The most tokens that the text tower reads, both special tokens included (77 in most CLIPs).

    Returns:
        Token ids (N, L), and the prompts that had to be cut.
    """
    if not prompts:
        raise ConfigError("no prompts were given; expected at least one class name.")
    full = tokenizer(list(prompts))["input_ids"]
    cut = [prompt for prompt, ids in zip(prompts, full, strict=True) if len(ids) > length]
    batch = tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    return batch["input_ids"], cut


def image_features(model: Any, pixel_values: Tensor, *, engine: Engine = "auto") -> Tensor:
    """Run the image tower of a whole model, or an image tower alone with its projection.

    Args:
        model: A model of one of the ``FAMILIES``, or its image tower, with or without an adapter in its layers.
        pixel_values: (B, 3, S, S) on the model's device.
        engine: ``plain`` is transformers' own forward, ``lean`` ours; ``auto`` is lean where no gradient is asked for
            and the model allows it.

    Returns:
        Unit features (B, D).

    Raises:
        ConfigError: ``lean`` was asked for and cannot run this model.
    """
    if _runs_plain(model, engine):
        return plain_image_features(model, pixel_values)
    dtype = autocast_dtype(pixel_values.device)
    return LeanTower(model.vision_model, model.visual_projection, dtype).images(pixel_values)


def text_features(model: Any, tokens: Tensor, *, engine: Engine = "auto") -> Tensor:
    """Run the text tower.

    Args:
        model: A model of one of the ``FAMILIES``, with or without an adapter in its layers.
        tokens: Token ids (N, L) on the model's device, padded at the end with the model's ``pad_token_id``.
        engine: See ``image_features``.

    Returns:
        Unit features (N, D). How far ``tokens`` are padded makes no difference to them.

    Raises:
        ConfigError: ``lean`` was asked for and cannot run this model.
    """
    if _runs_plain(model, engine):
        return plain_text_features(model, tokens)
    lean = LeanTowers(model, dtype=autocast_dtype(tokens.device))
    ((rows, plan),) = lean.passes(tokens.cpu())
    return lean.texts(plan)[rows.argsort().to(tokens.device)]


def text_embeddings(model: Any, tokens: Tensor) -> Tensor:
    """Run the text tower by transformers' own forward, and leave its outputs (N, D) as long as they are.

    Args:
        model: See ``text_features``.
        tokens: See ``text_features``.

    Returns:
        (N, D); normalised, they are ``text_features`` with the engine ``plain``.
    """
    return plain_text_embeddings(model, tokens)


@torch.no_grad()
def class_features(model: Any, tokens: Tensor, batch_size: int = 256, *, engine: Engine = "auto") -> Tensor:
    """Run the text tower over many prompts without gradients, in the precision of the model's weights.

    Args:
        model: See ``text_features``.
        tokens: Token ids (N, L) on any device.
        batch_size: How many prompts go through at a time.
        engine: See ``image_features``.

    Returns:
        Unit features (N, D), float32 on the CPU.

    Raises:
        ConfigError: ``lean`` was asked for and cannot run this model.
    """
    towers = make_towers(model, engine=engine)
    passes = towers.passes(tokens.cpu(), batch_size)
    found = torch.cat([towers.texts(one_pass).float().cpu() for _, one_pass in passes])
    return found[torch.cat([rows for rows, _ in passes]).argsort()]


def _runs_plain(model: Any, engine: Engine) -> bool:
    """Return whether transformers' own forward is to run."""
    return (engine == "auto" and torch.is_grad_enabled()) or why_plain(model, engine) is not None
