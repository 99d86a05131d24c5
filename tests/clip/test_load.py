from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from transformers import CLIPModel

from blocklora.clip import image_features, load_clip, load_image_tower, text_features, tokenize
from blocklora.core.errors import ModelError

MakeClip = Callable[..., Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def edit_config(folder: Path, **changes: object) -> None:
    """Change top-level entries of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_both_loaders_agree(clip_folder: Path) -> None:
    clip, tower = load_clip(str(clip_folder)), load_image_tower(str(clip_folder))
    pixel_values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = image_features(clip.model, pixel_values)
    torch.testing.assert_close(image_features(tower.model, pixel_values), expected, rtol=0, atol=0)
    assert clip.sha256 == tower.sha256
    assert clip.model_id == tower.model_id == str(clip_folder.resolve())
    assert clip.revision is None
    assert (clip.context_length, clip.depths) == (24, {"vision": 2, "text": 2})
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.model.training
    assert not any("text" in name for name, _ in tower.model.named_modules())


def test_the_hash_tells_weights_apart_but_not_file_precision(make_clip: MakeClip, tmp_path: Path) -> None:
    one, other = make_clip(tmp_path / "a", seed=1), make_clip(tmp_path / "b", seed=2)
    assert load_clip(str(one)).sha256 != load_clip(str(other)).sha256
    half = make_clip(tmp_path / "c", seed=1, dtype=torch.float16)
    loaded = load_clip(str(half))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    as_single = CLIPModel.from_pretrained(half, dtype=torch.float32)
    as_single.save_pretrained(tmp_path / "c")
    assert load_clip(str(half)).sha256 == loaded.sha256


def test_the_bundled_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip = load_clip("tiny")
    assert clip.model_id == "tiny"
    config = clip.model.config.text_config
    assert clip.tokenizer("x")["input_ids"][0] == config.bos_token_id
    assert clip.tokenizer("x")["input_ids"][-1] == config.eos_token_id


def test_a_wrong_width_in_the_vision_config_does_not_matter(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    vision = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vision_config"]
    edit_config(folder, vision_config=vision | {"projection_dim": 999})
    assert load_image_tower(str(folder)).sha256 == load_clip(str(folder)).sha256


@torch.no_grad()
def test_an_end_token_of_2_in_old_configs_means_the_last_of_the_vocabulary(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    folder = make_clip(tmp_path / "clip")
    prompts = ["a photo of a cat.", "x"]
    clip = load_clip(str(folder))
    tokens, _ = tokenize(prompts, clip.tokenizer, clip.context_length)
    expected = text_features(clip.model, tokens)
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    edit_config(folder, text_config=text | {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1})
    old = load_clip(str(folder))
    assert old.model.config.text_config.eos_token_id == 2
    assert torch.equal(tokenize(prompts, old.tokenizer, old.context_length)[0], tokens)
    torch.testing.assert_close(text_features(old.model, tokens), expected, rtol=0, atol=0)
    by_hand = old.model.text_model(input_ids=tokens[1:, :3]).last_hidden_state[0, 2]  # start, "x", end
    alone = old.model.text_projection(by_hand)
    torch.testing.assert_close(expected[1], alone / alone.norm(), rtol=1e-5, atol=1e-6)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read: .*config\.json"):
        load_clip(str(tmp_path))


def test_another_kind_of_model(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    (folder / "config.json").write_text('{"model_type": "altclip"}', encoding="utf-8")
    known = "clip, siglip, siglip2, chinese_clip, metaclip_2"
    for load in (load_clip, load_image_tower):
        with pytest.raises(ModelError, match=rf"this is a 'altclip' model; .* dual encoders .* {known}, for"):
            load(str(folder))


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_part_is_named(make_clip: MakeClip, tmp_path: Path, missing: str) -> None:
    folder = make_clip(tmp_path / "clip")
    (folder / missing).unlink()
    with pytest.raises(
        ModelError, match=r"its CLIP\w+ cannot be read: .*safetensors weights \(no pickle is read\)"
    ):
        load_clip(str(folder))


def test_a_missing_tokenizer_is_not_taken_for_an_empty_one(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ModelError, match=r"makes the tokens \[0, 2, 2\] of 'a'; .* the end token 4029\. .* are missing"
    ):
        load_clip(str(folder))


def test_a_pickle_is_not_read(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no pickle is read"):
        load_clip(str(folder))


def test_damaged_weights(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="its CLIPModel cannot be read"):
        load_clip(str(folder))


class Hub:
    """Stands in for the hub: counts the questions and answers them all in one way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.asked = 0

        def answer(*_: object, **__: object) -> None:
            self.asked += 1
            raise error

        monkeypatch.setattr(HfApi, "model_info", answer)


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub = Hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(ModelError, match=r"not whole in the local .* cache, and the hub cannot be reached"):
        load_clip("someone/clip")
    assert hub.asked == 1


def test_a_name_that_cannot_be_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, ValueError("Repo id must be in the form"))
    with pytest.raises(
        ModelError, match=r"a/b/c: no such folder here, and no such model on the Hugging Face hub"
    ):
        load_clip("a/b/c")


def cached(make_clip: MakeClip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put someone/clip into a local cache; return its folder."""
    repository = cache / "models--someone--clip"
    folder = make_clip(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for module in (constants, pytest.importorskip("transformers.utils.hub").constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(cache))
    return folder


def test_a_cache_without_the_tokenizer_is_not_whole(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached(make_clip, tmp_path, monkeypatch) / "tokenizer.json").unlink()
    hub = Hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(ModelError, match=r"not whole in the local .* cache, and the hub cannot be reached"):
        load_clip("someone/clip")
    assert hub.asked == 1


def test_a_cached_model_needs_no_network(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(make_clip, tmp_path, monkeypatch)
    hub = Hub(monkeypatch, ConnectionError("no route"))
    clip = load_clip("someone/clip")
    assert (clip.model_id, clip.revision, hub.asked) == ("someone/clip", COMMIT, 0)
    assert load_image_tower("someone/clip", COMMIT).sha256 == clip.sha256
