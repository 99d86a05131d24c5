"""Features of pictures and prompts: unit vectors in the space that CLIP's two towers share.

Axes: B = pictures, N = prompts, L = tokens of the longest prompt, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from blocklora.errors import ConfigError

__all__ = ["class_features", "image_features", "read_ahead", "text_features", "tokenize"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def tokenize(prompts: Sequence[str], tokenizer: CLIPTokenizer, length: int) -> tuple[torch.Tensor, list[str]]:
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

    No padding mask is passed: the tower is causal and read out at the end-of-text token, so what stands
    behind that token changes nothing, and the dense mask would only cost time.

    Args:
        model: A ``CLIPModel``, with or without an adapter in its layers.
        tokens: Token ids (N, L).

    Returns:
        Unit features (N, D).
    """
    return F.normalize(model.get_text_features(input_ids=tokens).pooler_output, dim=-1)


def image_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run the image tower of a ``CLIPModel`` or a ``CLIPVisionModelWithProjection``.

    Args:
        model: The model, with or without an adapter in its layers.
        pixel_values: (B, 3, S, S).

    Returns:
        Unit features (B, D).
    """
    if hasattr(model, "get_image_features"):
        features = model.get_image_features(pixel_values=pixel_values).pooler_output
    else:
        features = model(pixel_values=pixel_values).image_embeds
    return F.normalize(features, dim=-1)


@torch.no_grad()
def class_features(model: Any, tokens: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """Run the text tower over many prompts, ``batch_size`` at a time, without gradients: (N, D) on the CPU."""
    device = next(model.parameters()).device
    return torch.cat(
        [text_features(model, part.to(device)).float().cpu() for part in torch.split(tokens, batch_size)]
    )


def read_ahead(
    work: Callable[[_In], _Out], items: Sequence[_In], *, ahead: int, workers: int
) -> Iterator[_Out]:
    """Yield ``work(item)`` for each item, in order, while threads prepare the next ones.

    Args:
        work: What to do; pictures are decoded and resized outside of Python's lock.
        items: What to do it to.
        ahead: How many results may wait.
        workers: How many threads.
    """
    with ThreadPoolExecutor(max_workers=workers) as pool:
        source = iter(items)
        waiting: list[Future[_Out]] = [pool.submit(work, item) for item in islice(source, ahead)]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
