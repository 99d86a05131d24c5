from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from blocklora.clip import Clip, image_features, load_clip, text_features, tokenize
from blocklora.clip.prompted import (
    end_of_text,
    prompted_image_features,
    prompted_text_features,
    token_embeddings,
)


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens_of(clip: Clip) -> torch.Tensor:
    return tokenize(["a photo of a red square.", "a cat", "two"], clip.tokenizer, clip.context_length)[0]


def test_embedded_words_give_what_their_tokens_give(clip: Clip) -> None:
    tokens = tokens_of(clip)
    ours = prompted_text_features(
        clip.model, token_embeddings(clip.model, tokens), end_of_text(clip.model, tokens)
    )
    torch.testing.assert_close(ours, text_features(clip.model, tokens), rtol=1e-5, atol=1e-6)


def test_what_stands_behind_the_end_changes_nothing(clip: Clip) -> None:
    tokens = tokens_of(clip)
    end, embedded = end_of_text(clip.model, tokens), token_embeddings(clip.model, tokens)
    spoiled = embedded.clone()
    for row, place in enumerate(end.tolist()):
        spoiled[row, place + 1 :] = 9.0
    torch.testing.assert_close(
        prompted_text_features(clip.model, spoiled, end), prompted_text_features(clip.model, embedded, end)
    )


def test_old_configs_mean_the_largest_id(clip: Clip) -> None:
    old = copy.deepcopy(clip.model)
    old.text_model.config.eos_token_id = 2
    tokens = tokens_of(clip)
    assert end_of_text(old, tokens).tolist() == end_of_text(clip.model, tokens).tolist() == [8, 3, 2]


def attention(layer: torch.nn.Module, hidden: torch.Tensor, causal: bool) -> torch.Tensor:
    """One layer of CLIP by its formula, one head at a time, (rows, tokens, 32)."""
    a = layer.self_attn
    x = layer.layer_norm1(hidden)
    q, k, v = (proj(x) for proj in (a.q_proj, a.k_proj, a.v_proj))
    heads = []
    for part in (slice(0, 16), slice(16, 32)):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 16**0.5
        if causal:
            scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    hidden = hidden + a.out_proj(torch.cat(heads, dim=-1))
    x = layer.mlp.fc1(layer.layer_norm2(hidden))
    return hidden + layer.mlp.fc2(x * torch.sigmoid(1.702 * x))


def test_deep_text_prompts_are_the_formula(clip: Clip) -> None:
    tokens, deep = tokens_of(clip), random(1, 2, 32)
    end, text = end_of_text(clip.model, tokens), clip.model.text_model
    embedded = token_embeddings(clip.model, tokens)
    ours = prompted_text_features(clip.model, embedded, end, deep)
    hidden = embedded + text.embeddings.position_embedding.weight[: tokens.shape[1]]
    hidden = attention(text.encoder.layers[0], hidden, causal=True)
    hidden = hidden.clone()
    hidden[:, 1:3] = deep[0]
    hidden = text.final_layer_norm(attention(text.encoder.layers[1], hidden, causal=True))
    pooled = torch.stack([hidden[row, place] for row, place in enumerate(end.tolist())])
    expected = F.normalize(clip.model.text_projection(pooled), dim=-1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_deep_image_prompts_are_the_formula(clip: Clip, depth: int) -> None:
    values, prompts = random(3, 3, 32, 32), random(depth, 2, 32)
    ours = prompted_image_features(clip.model, values, prompts)
    vision = clip.model.vision_model
    hidden = torch.cat([vision.embeddings(values), prompts[0].repeat(3, 1, 1)], dim=1)
    hidden = attention(vision.encoder.layers[0], vision.pre_layrnorm(hidden), causal=False)
    if depth > 1:
        hidden = torch.cat([hidden[:, :-2], prompts[1].repeat(3, 1, 1)], dim=1)
    hidden = attention(vision.encoder.layers[1], hidden, causal=False)
    expected = F.normalize(clip.model.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, image_features(clip.model, values), atol=1e-3)
