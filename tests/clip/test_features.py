from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blocklora.clip import class_features, image_features, load_clip, text_features, tokenize
from blocklora.clip.features import read_ahead
from blocklora.clip.load import Clip
from blocklora.core.errors import ConfigError

PROMPTS = ["a photo of a cat.", "x", "a photo of a very large brown dog, a type of pet."]


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder))


def test_padding_changes_nothing(clip: Clip) -> None:
    tokens, cut = tokenize(PROMPTS, clip.tokenizer, clip.context_length)
    assert cut == []
    together = text_features(clip.model, tokens)
    for prompt, row in zip(PROMPTS, together, strict=True):
        ids = torch.tensor([clip.tokenizer(prompt)["input_ids"]])
        alone = text_features(clip.model, ids)[0]
        torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-6)
        masked = clip.model.get_text_features(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).pooler_output[0]
        torch.testing.assert_close(row, masked / masked.norm(), rtol=1e-5, atol=1e-6)


def test_long_prompts_keep_their_end_token(clip: Clip) -> None:
    long = "cat " * 50
    tokens, cut = tokenize([long, "cat"], clip.tokenizer, clip.context_length)
    assert cut == [long]
    assert tokens.shape == (2, 24)
    assert tokens[0, -1] == clip.model.config.text_config.eos_token_id
    assert torch.isfinite(text_features(clip.model, tokens)).all()


def test_no_prompts(clip: Clip) -> None:
    with pytest.raises(ConfigError, match="no prompts were given"):
        tokenize([], clip.tokenizer, 24)


def test_features_are_unit_vectors_whatever_the_batch(clip: Clip) -> None:
    tokens, _ = tokenize(PROMPTS, clip.tokenizer, clip.context_length)
    features = class_features(clip.model, tokens, batch_size=2)
    assert features.shape == (3, 16)
    assert not features.requires_grad
    torch.testing.assert_close(features, text_features(clip.model, tokens), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    pictures = image_features(clip.model, torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(pictures.norm(dim=1), torch.ones(2))


def test_read_ahead_keeps_order_and_bounds_what_waits() -> None:
    began: list[int] = []

    def work(item: int) -> int:
        began.append(item)
        return item * item

    results = read_ahead(work, range(10), ahead=3)
    assert next(results) == 0
    assert max(began) <= 3
    assert list(results) == [n * n for n in range(1, 10)]


def test_read_ahead_passes_errors_on_and_may_be_left() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("bad item")
        return item

    results = read_ahead(work, range(5), ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="bad item"):
        next(results)
    left = read_ahead(work, range(2), ahead=1)
    assert next(left) == 0
    left.close()
    assert list(read_ahead(work, [], ahead=2)) == []
