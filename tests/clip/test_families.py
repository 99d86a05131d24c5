from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_task import QUICK, fit, make_task, train_pixels
from transformers import AutoModel, AutoTokenizer, Siglip2Tokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from blocklora import FewShotClassifier
from blocklora.classifier import encode
from blocklora.clip import (
    class_features,
    crop_size,
    image_features,
    load_clip,
    load_image_tower,
    pixels,
    text_embeddings,
    text_features,
    tokenize,
)
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, ModelError
from blocklora.data import Dataset, Example, few_shot
from blocklora.methods import METHODS, AdapterSettings, Job, fit_config, prepare
from blocklora.methods.adapters.common import target_pattern

CPU = Compute(torch.device("cpu"), "fp32")
MakeRelative = Callable[[Path, str], Path]
DATASET = Dataset(
    "colours",
    ("red", "blue"),
    tuple(
        Example(name, label, Image.new("RGB", (40, 40), name)) for label, name in enumerate(("red", "blue"))
    ),
    (),
    (),
)
PROMPTS = ["a photo of a cat.", "x", "a photo of a very large brown dog, a pet"]
# name: model_type, tokens read, what the ordinary call of the tokenizer needs
FACTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "siglip": ("siglip", 64, {"padding": "max_length", "max_length": 64}),
    "siglip2-fixed": ("siglip", 64, {"padding": "max_length", "max_length": 64, "padding_side": "right"}),
    "siglip2": ("siglip2", 64, {"padding": "max_length", "max_length": 64, "padding_side": "right"}),
    "chinese_clip": ("chinese_clip", 52, {"padding": True}),
    "metaclip_2": ("metaclip_2", 77, {"padding": True}),
}
MASKED = {"chinese_clip"}


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def edit(path: Path, **changes: Any) -> None:
    """Change top-level entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@torch.no_grad()
def test_text_features_are_those_of_the_ordinary_call(relative: Path) -> None:
    model_type, length, call = FACTS[relative.name]
    clip = load_clip(str(relative))
    assert (clip.model_type, clip.context_length, clip.depths) == (
        model_type,
        length,
        {"vision": 2, "text": 2},
    )
    reader = Siglip2Tokenizer if relative.name == "siglip2-fixed" else AutoTokenizer
    inputs = reader.from_pretrained(relative)(PROMPTS, return_tensors="pt", **call)
    if relative.name not in MASKED:
        inputs = {"input_ids": inputs["input_ids"]}  # SigLIP was trained without a mask; MetaCLIP 2 is causal
    raw = AutoModel.from_pretrained(relative).eval().get_text_features(**inputs).pooler_output
    tokens, cut = tokenize(PROMPTS, clip.tokenizer, clip.context_length)
    assert cut == []
    assert tokens.shape[1] < length
    torch.testing.assert_close(text_embeddings(clip.model, tokens), raw, rtol=1e-5, atol=1e-6)
    features = text_features(clip.model, tokens)
    torch.testing.assert_close(features, raw / raw.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        class_features(clip.model, tokens, batch_size=2), features, rtol=1e-5, atol=1e-6
    )
    for prompt, row in zip(PROMPTS, features, strict=True):  # whatever stands beside it
        alone = tokenize([prompt], clip.tokenizer, clip.context_length)[0]
        torch.testing.assert_close(text_features(clip.model, alone)[0], row, rtol=1e-5, atol=1e-6)
    assert len({tuple(row.tolist()) for row in features}) == len(PROMPTS)


@torch.no_grad()
def test_image_features_are_those_of_the_ordinary_call(relative: Path) -> None:
    tower = load_image_tower(str(relative))
    assert crop_size(tower.processor) == 32
    image = random_image(60, 60)
    inputs = AutoImageProcessor.from_pretrained(relative, backend="pil")(images=image, return_tensors="pt")
    raw = AutoModel.from_pretrained(relative).eval().get_image_features(**inputs).pooler_output
    values = torch.stack([pixels(image, tower.processor), pixels(random_image(50, 70), tower.processor)])
    features = image_features(tower.model, values)
    torch.testing.assert_close(features[:1], raw / raw.norm(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(features[0], features[1], atol=1e-4)


def test_both_loaders_agree(relative: Path) -> None:
    clip, tower = load_clip(str(relative)), load_image_tower(str(relative))
    assert clip.sha256 == tower.sha256
    values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        image_features(tower.model, values), image_features(clip.model, values), rtol=0, atol=0
    )
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in clip.model.parameters())
    alone = not any("text" in name for name, _ in tower.model.named_modules())
    assert alone == (relative.name == "metaclip_2")


def test_long_prompts_keep_their_end_token(relative: Path) -> None:
    clip = load_clip(str(relative))
    tokens, cut = tokenize(["cat, " * 80, "cat"], clip.tokenizer, clip.context_length)
    assert cut == ["cat, " * 80]
    assert tokens.shape == (2, clip.context_length)
    assert tokens[0, -1] == clip.tokenizer("a")["input_ids"][-1]
    assert torch.isfinite(text_features(clip.model, tokens)).all()


@pytest.mark.parametrize("towers", ["both", "vision", "text"])
def test_the_pattern_names_the_layers_of_both_towers(relative: Path, towers: Any) -> None:
    clip = load_clip(str(relative))
    pattern = target_pattern(
        AdapterSettings(towers=towers, targets=("q", "k", "v", "out", "fc1", "fc2")), clip
    )
    shapes = [tuple(m.weight.shape) for name, m in clip.model.named_modules() if re.fullmatch(pattern, name)]
    n_blocks = 2 * len(clip.depths if towers == "both" else [towers])
    assert sorted(shapes) == sorted([*[(32, 32)] * 4, (64, 32), (32, 64)] * n_blocks)
    top = target_pattern(AdapterSettings(towers=towers, targets=("v",), layers="top-1"), clip)
    names = [name for name, _ in clip.model.named_modules() if re.fullmatch(top, name)]
    assert len(names) == n_blocks // 2
    assert all(".1." in name and name.endswith(("v_proj", "value")) for name in names)


@pytest.mark.parametrize("towers", ["both", "vision", "text"])
def test_fit_save_load(relative: Path, photos: Path, tmp_path: Path, towers: str) -> None:
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    options = {"iterations": 2, "lr": 1e-2, "batch_size": 6, "targets": ("q", "out", "fc1"), "towers": towers}
    classifier = FewShotClassifier(model=str(relative), shots=4, device="cpu", **options).fit(paths, labels)
    probabilities = classifier.predict_proba(paths)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    fitted = classifier.classifier_
    images = encode(fitted, [("x", paths[0])], CPU, zero_shot=True).features
    assert torch.equal(images[:, 0], images[:, 1]) == (towers == "text")
    plain = FewShotClassifier(model=str(relative), method="zero-shot", device="cpu").fit(paths, labels)
    zero_shot = encode(plain.classifier_, [("x", paths[0])], CPU).features
    torch.testing.assert_close(images[:, 1], zero_shot, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fitted.zero_shot_features, plain.classifier_.zero_shot_features)
    classifier.save(tmp_path / "kept")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), probabilities)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_every_method_works_or_names_its_families(relative: Path) -> None:
    clip = load_clip(str(relative))
    job = Job(make_task(clip), clip, CPU, 0, "zero-shot")
    for name, method in METHODS.items():
        if method.families is None or clip.model_type in method.families:
            classifier = fit(job, name, **QUICK[name]).classifier
            features = classifier.image_features(train_pixels(job))
            assert classifier.logits(features).isfinite().all(), name
        else:
            config = fit_config(method=name, model=str(relative), device="cpu")
            with pytest.raises(ConfigError, match=f"method '{name}': works on models of the type clip or"):
                prepare(config, DATASET, few_shot(DATASET, None, 0))


def test_naflex_images_become_squares_of_patches(make_relative: MakeRelative, tmp_path: Path) -> None:
    tower = load_image_tower(str(make_relative(tmp_path / "m", "siglip2")))
    values = pixels(random_image(30, 90), tower.processor)
    assert values.shape == (3, 32, 32)  # the largest square within 17 patches of 8 x 8 has 4 x 4
    assert values.abs().max() <= 1


def test_capitals_mean_nothing_to_siglip(make_relative: MakeRelative, tmp_path: Path) -> None:
    for name in ("siglip", "siglip2-fixed", "siglip2"):
        clip = load_clip(str(make_relative(tmp_path / name, name)))
        ids = tokenize(["A Red SQUARE", "a red square"], clip.tokenizer, 64)[0]
        assert torch.equal(ids[0], ids[1])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("siglip", "spiece.model"),
        ("siglip2-fixed", "tokenizer.json"),
        ("siglip2", "tokenizer.json"),
        ("chinese_clip", "vocab.txt"),
        ("metaclip_2", "tokenizer.json"),
    ],
)
def test_a_missing_tokenizer_is_noticed(
    make_relative: MakeRelative, tmp_path: Path, name: str, file: str
) -> None:
    folder = make_relative(tmp_path / name, name)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=r"(its tokenizer makes the tokens|its \w*Tokenizer cannot be read)"):
        load_clip(str(folder))


def test_a_tokenizer_with_another_end(make_relative: MakeRelative, tmp_path: Path) -> None:
    folder = make_relative(tmp_path / "m", "metaclip_2")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit(folder / "config.json", text_config=config["text_config"] | {"eos_token_id": 5})
    with pytest.raises(
        ModelError, match=r"makes the tokens \[0, .*2\] of 'a'; expected .* the end token 5\."
    ):
        load_clip(str(folder))


def test_a_processor_of_another_size(make_relative: MakeRelative, tmp_path: Path) -> None:
    folder = make_relative(tmp_path / "m", "siglip")
    edit(folder / "preprocessor_config.json", size={"height": 48, "width": 48})
    with pytest.raises(ModelError, match=r"makes \w+ of size .*48.*, but the model reads 32 pixels a side"):
        load_image_tower(str(folder))
    edit(folder / "preprocessor_config.json", size={"shortest_edge": 32})
    with pytest.raises(ModelError, match=r"makes \w+ of size .*shortest_edge.*, but the model reads 32"):
        load_clip(str(folder))


def test_no_pooling_head(make_relative: MakeRelative, tmp_path: Path) -> None:
    folder = make_relative(tmp_path / "m", "siglip")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit(folder / "config.json", vision_config=config["vision_config"] | {"vision_use_head": False})
    with pytest.raises(ModelError, match="its image tower has no pooling head"):
        load_clip(str(folder))
