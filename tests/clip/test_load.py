from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from blocklora.clip import (
    image_features,
    load_clip,
    load_image_tower,
    text_features,
    text_tower_hash,
    tokenize,
)
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


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> str:
    """Write a folder's weights again, changed; return the folder's name."""
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights, {"format": "pt"})
    return str(folder)


# what is wrong: what a file of it holds, and what the error says
UNFIT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "missing": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("visual_projection")},
        r"1 tensor is missing \(visual_projection\.weight\)",
    ),
    "many missing": (
        lambda w: {k: v for k, v in w.items() if "fc1" not in k},
        r"tensors are missing \(\S*fc1.bias, \S*fc1.weight, \S*fc1.bias, \.\.\.\)",
    ),
    "renamed": (
        lambda w: {k.replace("self_attn", "attention"): v for k, v in w.items()},
        r"tensors are missing .*self_attn.* tensors are unknown to the model .*attention",
    ),
    "a prefix": (
        lambda w: {"model." + k: v for k, v in w.items()},
        r"missing .*; \d+ tensors are unknown to the model \(model\..*without the prefix 'model\.'",
    ),
    "a shape": (
        lambda w: w | {"visual_projection.weight": torch.zeros(3, 4)},
        r"1 tensor is of another shape \(visual_projection.weight \(3, 4\) in place of \(16, 32\)\)",
    ),
    "extra": (
        lambda w: w | {"classifier.weight": torch.zeros(3, 4)},
        r"1 tensor is unknown to the model \(classifier\.weight\)",
    ),
    "not a number": (
        lambda w: w | {"visual_projection.weight": torch.full((16, 32), torch.nan)},
        r"1 tensor is not finite \(NaN or infinity: visual_projection\.weight\)",
    ),
    "too large for float32": (
        lambda w: {k: v.double() * 1e300 if k.endswith("norm1.weight") else v for k, v in w.items()},
        r"tensors are not finite .*layer_norm1\.weight",
    ),
}


@pytest.mark.parametrize("load", [load_clip, load_image_tower])
@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_do_not_fit_are_refused(
    make_clip: MakeClip, tmp_path: Path, case: str, load: Callable[[str], object]
) -> None:
    change, message = UNFIT[case]
    with pytest.raises(ModelError, match=message):
        load(rewrite(make_clip(tmp_path / "clip"), change))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "_orig_mod." + name,
        lambda name: "module." + name,
        lambda name: "module._orig_mod." + name,
        lambda name: "clip." + name,
        lambda name: name.replace("vision_model.", "vision_model._orig_mod."),
    ],
)
def test_names_that_known_wrappers_leave_are_understood(
    make_clip: MakeClip, tmp_path: Path, rename: Callable[[str], str]
) -> None:
    folder = make_clip(tmp_path / "clip")
    expected = load_clip(str(folder)).model_sha256
    rewrite(folder, lambda weights: {rename(name): value for name, value in weights.items()})
    clip = load_clip(str(folder))
    assert clip.model_sha256 == expected
    assert load_image_tower(str(folder)).sha256 == clip.sha256
    clip.model.save_pretrained(tmp_path / "again")
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(clip.model.state_dict())


@pytest.mark.parametrize("wrapper", ["module.", "clip.", "_orig_mod."])
def test_a_tensor_that_is_there_twice_is_refused(make_clip: MakeClip, tmp_path: Path, wrapper: str) -> None:
    folder = make_clip(tmp_path / "clip")
    rewrite(folder, lambda weights: weights | {f"{wrapper}visual_projection.weight": torch.zeros(16, 32)})
    with pytest.raises(ModelError, match=r"1 tensor is in the file twice, .* \(visual_projection\.weight\)"):
        load_clip(str(folder))


def test_tensors_that_no_feature_needs_may_be_there_or_not(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    expected = load_clip(str(folder)).model_sha256
    ids = {f"{tower}_model.embeddings.position_ids": torch.arange(4)[None] for tower in ("text", "vision")}
    rewrite(folder, lambda weights: weights | ids)
    assert load_clip(str(folder)).model_sha256 == expected
    load_image_tower(str(folder))


def test_the_image_tower_alone_needs_no_text_tower(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    expected = load_image_tower(str(folder)).sha256
    rewrite(folder, lambda weights: {k: v for k, v in weights.items() if k.startswith("vis")})
    assert load_image_tower(str(folder)).sha256 == expected
    with pytest.raises(ModelError, match=r"tensors are missing \(logit_scale, text_model"):
        load_clip(str(folder))


def test_a_missing_shard_is_named(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    clip = load_clip(str(folder))
    (folder / "model.safetensors").unlink()
    clip.model.save_pretrained(folder, max_shard_size="200KB")
    assert load_clip(str(folder)).model_sha256 == clip.model_sha256
    second = sorted(folder.glob("model-*.safetensors"))[1]
    second.unlink()
    for load in (load_clip, load_image_tower):
        with pytest.raises(ModelError, match=re.escape(second.name)):
            load(str(folder))


def test_a_shard_that_is_not_the_indexed_one(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    clip = load_clip(str(folder))
    (folder / "model.safetensors").unlink()
    clip.model.save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(ModelError, match="tensors are missing"):
        load_clip(str(folder))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_beside_the_weights_is_not_put_in(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    config = peft.LoraConfig(target_modules=["q_proj"], base_model_name_or_path=str(folder))
    peft.get_peft_model(load_clip(str(folder)).model, config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"an adapter \(adapter_config\.json\) lies beside the weights"):
        load_clip(str(folder))


def test_only_the_family_that_is_loaded_is_imported() -> None:
    code = (
        "import sys; from blocklora.clip import load_image_tower; load_image_tower('tiny'); "
        "print([f'transformers.models.{m}.modeling_{m}' in sys.modules for m in ('clip', 'siglip', 'chinese_clip')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, False, False]"


def test_the_hash_of_the_whole_model_sees_every_part(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    before = load_clip(str(folder))
    for part in ("logit_scale", "text_projection.weight", "visual_projection.weight"):
        rewrite(folder, lambda weights, part=part: weights | {part: weights[part] + 1})
        after = load_clip(str(folder))
        assert after.model_sha256 != before.model_sha256
        assert (after.sha256 == before.sha256) == (part != "visual_projection.weight")
        assert (text_tower_hash(after.model) == text_tower_hash(before.model)) == (
            part != "text_projection.weight"
        )
        before = after


def test_a_folder_that_has_gone_is_not_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(
        ModelError, match=r"gone: there is no such folder \(any more\); expected a folder that"
    ):
        load_clip(str(tmp_path / "gone"))
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="file: this is a file; expected a folder"):
        load_image_tower(str(tmp_path / "file"))
    assert hub.asked == 0


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
