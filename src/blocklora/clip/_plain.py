"""transformers' own forward of either tower, for every family of models.

Axes: B = images, N = prompts, L = tokens of the longest prompt, D = the width of the shared space, S = side of an
image in pixels, C = 3 colours, P = side of a patch, G = S / P patches in a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.clip.families import FAMILIES

__all__ = ["plain_image_features", "plain_text_embeddings", "plain_text_features"]


def plain_image_features(model: Any, pixel_values: Tensor) -> Tensor:
    """Unit features (B, D) of pixel values (B, C, S, S); the model is a whole one or an image tower alone."""
    if hasattr(model, "get_image_features"):
        features = model.get_image_features(**_image_inputs(model, pixel_values)).pooler_output
    else:
        features = model(pixel_values=pixel_values).image_embeds
    return F.normalize(features, dim=-1)


def plain_text_features(model: Any, tokens: Tensor) -> Tensor:
    """Unit features (N, D) of token ids (N, L)."""
    return F.normalize(plain_text_embeddings(model, tokens), dim=-1)


def plain_text_embeddings(model: Any, tokens: Tensor) -> Tensor:
    """Outputs of the text tower (N, D) for token ids (N, L), not normalised."""
    embeddings: Tensor = model.get_text_features(**_text_inputs(model, tokens)).pooler_output
    return embeddings


def _text_inputs(model: Any, tokens: Tensor) -> dict[str, Tensor]:
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


def _image_inputs(model: Any, pixel_values: Tensor) -> dict[str, Tensor]:
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
        "spatial_shapes": torch.full((b, 2), grid),  # read on the CPU, image by image
    }
