"""The two towers with learned vectors among their inputs: what prompt learners train.

transformers' own layers are called one by one, so every weight, and any adapter in them, is the model's.
Axes: B = images, N = prompts, L = tokens, T = patches and class token, J = layers with prompts, P = prompts a
layer, W = a tower's width, D = the width of the shared space.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import create_causal_mask

__all__ = ["end_of_text", "prompted_image_features", "prompted_text_features", "token_embeddings"]


def token_embeddings(model: Any, tokens: Tensor) -> Tensor:
    """Return the embedded words (N, L, W) of token ids (N, L), without their positions."""
    embedded: Tensor = model.text_model.embeddings.token_embedding(tokens)
    return embedded


def end_of_text(model: Any, tokens: Tensor) -> Tensor:
    """Return where each prompt ends (N,): the place at which the text tower is read.

    Configs of before 2023 say ``eos_token_id`` 2 and mean the largest id of the prompt, as OpenAI's code does.
    """
    end = model.text_model.config.eos_token_id
    return tokens.argmax(dim=-1) if end == 2 else (tokens == end).int().argmax(dim=-1)


def prompted_text_features(model: Any, embedded: Tensor, end: Tensor, deep: Tensor | None = None) -> Tensor:
    """Run the text tower from embeddings.

    Args:
        model: A ``CLIPModel``.
        embedded: Words and learned vectors (N, L, W), without positions; learned ones follow the first token.
        end: Where each prompt ends (N,).
        deep: Learned vectors (J, P, W) that replace those after the first token before layers 1 to J.

    Returns:
        Unit features (N, D).
    """
    text = model.text_model
    hidden = text.embeddings(inputs_embeds=embedded)  # (N, L, W)
    mask = create_causal_mask(
        config=text.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    for index, layer in enumerate(text.encoder.layers):
        if deep is not None and 1 <= index <= len(deep):
            learned = deep[index - 1].expand(len(hidden), -1, -1).to(hidden.dtype)  # (N, P, W)
            hidden = torch.cat([hidden[:, :1], learned, hidden[:, 1 + learned.shape[1] :]], dim=1)
        hidden = layer(hidden, mask, is_causal=True)
    rows = torch.arange(len(hidden), device=hidden.device)
    pooled = text.final_layer_norm(hidden[rows, end])  # (N, W)
    return F.normalize(model.text_projection(pooled), dim=-1)


def prompted_image_features(model: Any, pixel_values: Tensor, prompts: Tensor) -> Tensor:
    """Run the image tower with learned vectors behind the patches.

    Args:
        model: A ``CLIPModel`` or ``CLIPVisionModelWithProjection``.
        pixel_values: (B, 3, S, S).
        prompts: Learned vectors (J, P, W): the first are read by layer 0, and replaced before layers 1 to J - 1.

    Returns:
        Unit features (B, D).
    """
    vision = model.vision_model
    hidden = vision.embeddings(pixel_values)  # (B, T, W)
    learned = prompts[0].expand(hidden.shape[0], -1, -1).to(hidden.dtype)
    hidden = vision.pre_layrnorm(torch.cat([hidden, learned], dim=1))  # (B, T + P, W)
    for index, layer in enumerate(vision.encoder.layers):
        if 1 <= index < len(prompts):
            learned = prompts[index].expand(hidden.shape[0], -1, -1).to(hidden.dtype)
            hidden = torch.cat([hidden[:, : -learned.shape[1]], learned], dim=1)
        hidden = layer(hidden, None)
    pooled = vision.post_layernorm(hidden[:, 0])  # (B, W)
    return F.normalize(model.visual_projection(pooled), dim=-1)
