"""Features of pictures and prompts: unit vectors in the space that a model's two towers share.

Axes: B = pictures, N = prompts, L = tokens of the longest prompt, D = the width of the shared space, S = side of
a picture in pixels, C = 3 colours, P = side of a patch, G = S / P patches in a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from blocklora.clip.families import FAMILIES
from blocklora.core.errors import ConfigError

__all__ = ["image_features", "read_ahead", "text_features", "tokenize"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


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


def text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run the text tower.

    Args:
        model: A model of one of the ``FAMILIES``, with or without an adapter in its layers.
        tokens: Token ids (N, L), padded at the end with the model's ``pad_token_id``.

    Returns:
        Unit features (N, D). How far ``tokens`` are padded makes no difference to them.
    """
    return F.normalize(model.get_text_features(**_text_inputs(model, tokens)).pooler_output, dim=-1)


def image_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run the image tower of a whole model, or an image tower alone with its projection.

    Args:
        model: The model, with or without an adapter in its layers.
        pixel_values: (B, C, S, S).

    Returns:
        Unit features (B, D).
    """
    if hasattr(model, "get_image_features"):
        features = model.get_image_features(**_image_inputs(model, pixel_values)).pooler_output
    else:
        features = model(pixel_values=pixel_values).image_embeds
    return F.normalize(features, dim=-1)


def _text_inputs(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what ``get_text_features`` takes: token ids, and a mask only where padding would count without it.

    A causal tower that is read at its end token needs none, and a dense mask would only cost time.
    """
    padding, text = FAMILIES[model.config.model_type].padding, model.config.text_config
    if padding == "read":
        missing = text.max_position_embeddings - tokens.shape[1]
        return {"input_ids": F.pad(tokens, (0, missing), value=text.pad_token_id)}
    if padding == "masked":
        return {"input_ids": tokens, "attention_mask": (tokens != text.pad_token_id).long()}
    return {"input_ids": tokens}


def _image_inputs(model: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what ``get_image_features`` takes: pixel values, for SigLIP 2 as rows of patches (B, G * G, P * P * C)."""
    if model.config.model_type != "siglip2":
        return {"pixel_values": pixel_values}
    p = model.config.vision_config.patch_size
    b, c, side, _ = pixel_values.shape
    grid = side // p
    patches = pixel_values.reshape(b, c, grid, p, grid, p)  # (B, C, G, P, G, P)
    return {
        "pixel_values": patches.permute(0, 2, 4, 3, 5, 1).reshape(b, grid * grid, p * p * c),
        "pixel_attention_mask": torch.ones(b, grid * grid, dtype=torch.long, device=pixel_values.device),
        "spatial_shapes": torch.full((b, 2), grid),  # read on the CPU, picture by picture
    }


def read_ahead(
    work: Callable[[_In], _Out], items: Sequence[_In], *, ahead: int | None = None
) -> Iterator[_Out]:
    """Yield ``work(item)`` for each item, in order, while threads prepare the next ones.

    Args:
        work: What to do; pictures are decoded and resized outside of Python's lock.
        items: What to do it to.
        ahead: How many results may wait; None is one more than there are threads, of which there is one for every
            two processors, at least two and at most eight.
    """
    workers = min(8, max(2, (os.cpu_count() or 2) // 2))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        source = iter(items)
        waiting: list[Future[_Out]] = [
            pool.submit(work, item) for item in islice(source, ahead or workers + 1)
        ]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
