"""The tiny CLIP: its configuration, its initial weights, and a vision forward pass over chosen patches only.

Axes: b pictures, n tokens, p patches kept, d width (192), c numbers per patch (3 x 12 x 12 = 432).
"""

import math

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

SIDE, PATCH, WIDTH, HEADS, PROJECTION = 72, 12, 192, 3, 256
N_PATCHES = (SIDE // PATCH) ** 2
VOCABULARY, CONTEXT = 4030, 32
LOGIT_SCALE = 25.0
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def tiny_config() -> CLIPConfig:
    """Return the architecture: vision 192 x 6 layers, text 192 x 4 layers, 3 heads each, projection 256."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "hidden_act": "quick_gelu",
    }
    end = VOCABULARY - 1
    text = {
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_position_embeddings": CONTEXT,
    }
    return CLIPConfig(
        text_config={
            **tower,
            **text,
            "num_hidden_layers": 4,
            "vocab_size": VOCABULARY,
            "projection_dim": PROJECTION,
        },
        vision_config={
            **tower,
            "num_hidden_layers": 6,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": PROJECTION,
        },
        projection_dim=PROJECTION,
        logit_scale_init_value=math.log(LOGIT_SCALE),
    )


def build(seed: int) -> CLIPModel:
    """Return a freshly initialised model."""
    torch.manual_seed(seed)
    return CLIPModel(tiny_config())


def embed_patches(model: CLIPModel, patches: Tensor, places: Tensor) -> Tensor:
    """Return the pooled vision features of the given patches.

    Args:
        model: the tiny CLIP.
        patches: normalised pixels, [b, p, c].
        places: index of each patch in the 6 x 6 grid, [b, p].

    Returns:
        The class token after the last layer norm, [b, d]; equal to CLIP's own pooled output if all patches are given.
    """
    vision = model.vision_model
    embeddings = vision.embeddings
    positions = embeddings.position_embedding.weight  # [1 + 36, d]
    weight = embeddings.patch_embedding.weight.flatten(1)  # [d, c]
    tokens = patches @ weight.T + positions[1:][places]  # [b, p, d]
    first = (embeddings.class_embedding + positions[0]).expand(len(patches), 1, -1)  # [b, 1, d]
    hidden = vision.pre_layrnorm(torch.cat([first, tokens], 1))  # [b, 1 + p, d]
    hidden = vision.encoder(inputs_embeds=hidden).last_hidden_state
    return vision.post_layernorm(hidden[:, 0])


def text_features(model: CLIPModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Return projected text features, not normalised, [b, 256]."""
    pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
    return model.text_projection(pooled)


def _grid_positions() -> Tensor:
    """Return fixed sine and cosine embeddings of the 6 x 6 grid, [36, d]."""
    side = SIDE // PATCH
    frequencies = 1 / (10000 ** (torch.arange(WIDTH // 4) / (WIDTH // 4)))  # [d / 4]
    rows, columns = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    waves = [
        wave(axis.flatten()[:, None] * frequencies)
        for axis in (rows, columns)
        for wave in (torch.sin, torch.cos)
    ]
    return torch.cat(waves, 1)


def _square_root_factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return U sqrt(S) and V sqrt(S) of a matrix U S V^T."""
    u, s, v_t = torch.linalg.svd(matrix)
    return u * s.sqrt(), v_t.T * s.sqrt()


@torch.no_grad()
def initialise_vision(model: CLIPModel, patches: Tensor) -> None:
    """Give the vision tower a start from which it learns fast.

    Patch filters are the whitened principal components of real patches, positions are sines and cosines, and attention
    starts mimetic: queries . keys near the identity, values . output near its negative (Trockman & Kolter 2023).

    Args:
        model: changed in place.
        patches: a sample of normalised patches, [n, c].
    """
    embeddings = model.vision_model.embeddings
    embeddings.position_embedding.weight[1:] = 0.5 * _grid_positions()
    centred = patches - patches.mean(0)
    _, s, v_t = torch.linalg.svd(centred, full_matrices=False)
    spread = s[:WIDTH] / len(patches) ** 0.5  # [d]
    filters = 0.5 * v_t[:WIDTH] / (spread[:, None] + 0.15 * spread[0] ** 0.5 + 0.1)  # [d, c]
    embeddings.patch_embedding.weight.copy_(filters.view(WIDTH, 3, PATCH, PATCH))
    identity, head = torch.eye(WIDTH), WIDTH // HEADS
    for layer in model.vision_model.encoder.layers:
        attention = layer.self_attn
        for h in range(HEADS):
            noise = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
            q, k = _square_root_factors(0.7 * noise + 0.7 * identity)
            attention.q_proj.weight[h * head : (h + 1) * head] = q[:, :head].T
            attention.k_proj.weight[h * head : (h + 1) * head] = k[:, :head].T
        noise = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
        out, value = _square_root_factors(0.4 * noise - 0.4 * identity)
        attention.out_proj.weight.copy_(out)
        attention.v_proj.weight.copy_(value.T)
