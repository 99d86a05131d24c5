"""Which patches of an image speak for a direction of the shared space, without gradients.

Axes: B = images, L = tokens of an image (1 + G * G), V = width of the image tower, A = heads, H = V / A, D = the width
of the shared space, G = patches in a row, S = side of an image in pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.core.errors import ConfigError

__all__ = ["patch_relevance", "why_no_relevance"]


@torch.no_grad()
def patch_relevance(model: Any, pixel_values: Tensor, directions: Tensor) -> Tensor:
    """Return what each patch adds along a direction through the values that the class token reads from it.

    In every layer the class token takes up a sum over patches of (attention times value), projected. Each summand goes
    straight to the last layer norm, with the whole token's spread, and the projection into the shared space; what
    later layers make of it is left out. The sum over all layers is better than the last one alone (docs/confidence.md).

    Args:
        model: A ``CLIPModel``, its image tower with projection, or a model of the same build, with or without an
            adapter in its layers.
        pixel_values: (B, 3, S, S) on the model's device.
        directions: (B, D) what is asked for of each image, such as how logits grow with its unit features.

    Returns:
        (B, G, G), float32 on the CPU: positive where a patch speaks for the direction.

    Raises:
        ConfigError: The model reads its images otherwise; the message says how.

    Source:
        Gandelsman et al., Interpreting CLIP's Image Representation via Text-Based Decomposition, ICLR 2024,
        section 4: the direct effects of the attention layers, by image patches.
    """
    if why := why_no_relevance(model):
        raise ConfigError(f"no heat map of patches: {why}; leave heat maps out for this model.")
    vision = model.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixel_values))  # (B, L, V)
    parts = torch.zeros_like(hidden)
    for layer in vision.encoder.layers:
        parts = parts + _read_by_class_token(layer, hidden, int(vision.config.num_attention_heads))
        hidden = layer(hidden, None)
    token = hidden[:, :1]  # (B, 1, V)
    norm = vision.post_layernorm
    spread = (token.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()  # (B, 1, 1)
    scaled = norm.weight * (parts - parts.mean(dim=-1, keepdim=True)) / spread
    features = F.normalize(model.visual_projection(norm(token[:, 0])), dim=-1).float()  # (B, D)
    wanted = directions.to(features)
    wanted = wanted - (wanted * features).sum(dim=-1, keepdim=True) * features  # features have length 1
    found = (model.visual_projection(scaled).float() @ wanted[..., None])[:, 1:, 0]  # (B, G G)
    grid = round(found.shape[1] ** 0.5)
    maps: Tensor = found.view(len(found), grid, grid).cpu()
    return maps


def why_no_relevance(model: Any) -> str | None:
    """Say why a model's patches cannot be told apart; None: they can."""
    vision = getattr(model, "vision_model", None)
    kind = model.config.model_type
    if not hasattr(model, "visual_projection") or not hasattr(vision, "pre_layrnorm"):
        return f"a model of the type {kind} does not read an image at a class token"
    return None


def _read_by_class_token(layer: Any, hidden: Tensor, n_heads: int) -> Tensor:
    """Return what the class token reads from each token in a layer (B, L, V)."""
    batch, length, width = hidden.shape
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    shape = (batch, -1, n_heads, width // n_heads)
    query = attention.q_proj(normed[:, :1]).view(shape).transpose(1, 2)  # (B, A, 1, H)
    keys, values = (p(normed).view(shape).transpose(1, 2) for p in (attention.k_proj, attention.v_proj))
    shares = (query @ keys.transpose(2, 3) * (width // n_heads) ** -0.5).softmax(dim=-1)  # (B, A, 1, L)
    read = (shares.transpose(2, 3) * values).transpose(1, 2).reshape(batch, length, width)  # (B, L, V)
    nothing = torch.zeros_like(read[:1, :1])
    summands: Tensor = attention.out_proj(read) - attention.out_proj(
        nothing
    )  # without the bias, once a token
    return summands
