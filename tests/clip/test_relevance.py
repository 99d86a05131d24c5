"""Patches: their shares add up to what the class token reads, and other builds are refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from blocklora.clip import load_clip, load_image_tower, patch_relevance
from blocklora.clip.relevance import _read_by_class_token
from blocklora.core.errors import ConfigError


@pytest.fixture
def model(clip_folder: Path) -> Any:
    return load_clip(str(clip_folder)).model


def test_what_is_read_from_each_token_adds_up(model: Any) -> None:
    layer, hidden = model.vision_model.encoder.layers[-1], torch.randn(3, 5, 32)
    normed = layer.layer_norm1(hidden)
    expected = layer.self_attn(normed)[0][:, 0] - layer.self_attn.out_proj.bias
    parts = _read_by_class_token(layer, hidden, 2)
    torch.testing.assert_close(parts.sum(dim=1), expected)


def test_a_map_is_linear_in_the_direction_and_small_changes_follow_it(model: Any) -> None:
    values, directions = torch.randn(2, 3, 32, 32), torch.randn(2, 16)
    maps = patch_relevance(model, values, directions)
    assert maps.shape == (2, 2, 2)
    torch.testing.assert_close(patch_relevance(model, values, -2 * directions), -2 * maps)
    alone = patch_relevance(model, values[1:], directions[1:])
    torch.testing.assert_close(alone, maps[1:], rtol=1e-4, atol=1e-6)


def test_the_image_tower_alone_gives_the_same(model: Any, clip_folder: Path) -> None:
    alone = load_image_tower(str(clip_folder)).model
    values, directions = torch.randn(1, 3, 32, 32), torch.randn(1, 16)
    torch.testing.assert_close(
        patch_relevance(model, values, directions), patch_relevance(alone, values, directions)
    )


def test_other_builds_are_refused(model: Any) -> None:
    class Other(torch.nn.Module):
        config = type("Config", (), {"model_type": "siglip"})

    with pytest.raises(ConfigError, match="type siglip does not read an image at a class token"):
        patch_relevance(Other(), torch.zeros(1, 3, 32, 32), torch.zeros(1, 16))
