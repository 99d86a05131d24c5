from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from blocklora.clip import class_features, image_features, load_clip, pixels, tokenize
from blocklora.clip.load import Clip
from blocklora.core.device import Compute
from blocklora.data import Example
from blocklora.methods import METHODS, Fitted, Options, Task, make_settings

COLOURS = ("red", "green", "blue")


def make_task(clip: Clip) -> Task:
    sentences = tuple(f"a photo of a {colour}." for colour in COLOURS)
    tokens, _ = tokenize(sentences, clip.tokenizer, clip.context_length)
    train = tuple(Example(c, label, Image.new("RGB", (40, 36), c)) for label, c in enumerate(COLOURS))
    return Task(COLOURS, sentences, tokens, train, flip=False)


def fit(folder: Path, method: str, **options: Any) -> Fitted:
    clip = load_clip(str(folder))
    trained = {} if method == "zero-shot" else {"iterations": 3, "lr": 1e-3}
    settings = make_settings(method, METHODS[method], trained | options)
    return METHODS[method](make_task(clip), clip, settings, 0, Compute(torch.device("cpu"), "fp32"))


def adapted(fitted: Fitted) -> set[str]:
    return {name for name, p in fitted.model.named_parameters() if p.requires_grad}


def test_zero_shot_is_clip_itself(clip_folder: Path) -> None:
    fitted = fit(clip_folder, "zero-shot")
    clip = load_clip(str(clip_folder))
    values = torch.stack([pixels(Image.new("RGB", (32, 32), c), clip.processor) for c in ("navy", "pink")])
    tokens = make_task(clip).tokens
    together = clip.model(input_ids=tokens, pixel_values=values).logits_per_image
    ours = clip.model.logit_scale.exp() * image_features(fitted.model, values) @ fitted.class_features.T
    torch.testing.assert_close(ours, together, rtol=1e-4, atol=1e-5)
    assert fitted.trainable_parameters == 0
    assert fitted.training is None


# Width 32, two layers in each of two towers, q/k/v: 12 layers of d_in = d_out = 32.
@pytest.mark.parametrize(
    ("method", "options", "numbers"),
    [
        ("clip-lora", {"r": 2}, 12 * 2 * (32 + 32)),
        ("block-lora", {"r": 2, "n_blocks": 2}, 12 * (1 * 32 + 2 * 32)),
        ("block-lora", {"r": 4, "n_blocks": 2}, 12 * (2 * 32 + 4 * 32)),
        ("block-lora", {"r": 4, "n_blocks": 2, "parametrization": "folded"}, 12 * 2 * (32 + 32)),
        ("block-lora", {"r": 2, "n_blocks": 1, "targets": ("fc1",), "layers": "top-1"}, 2 * 2 * (32 + 64)),
    ],
)
def test_trained_numbers(clip_folder: Path, method: str, options: dict[str, Any], numbers: int) -> None:
    fitted = fit(clip_folder, method, **options)
    assert fitted.trainable_parameters == numbers
    assert fitted.training is not None
    assert len(fitted.training.losses) == 3
    assert fitted.selection["kept step"].startswith("the last of 3")


@pytest.mark.parametrize("towers", ["vision", "text"])
def test_one_tower_alone(clip_folder: Path, towers: str) -> None:
    fitted = fit(clip_folder, "block-lora", towers=towers)
    assert all(f"{towers}_model." in name for name in adapted(fitted))
    clip = load_clip(str(clip_folder))
    plain = class_features(clip.model, make_task(clip).tokens)
    assert torch.allclose(plain, fitted.class_features, rtol=1e-5, atol=1e-6) == (towers == "vision")


def test_the_seed_decides(clip_folder: Path) -> None:
    clip = [load_clip(str(clip_folder)) for _ in range(3)]
    features = [
        METHODS["block-lora"](
            make_task(c),
            c,
            Options(iterations=3, lr=1e-2),
            seed,
            Compute(torch.device("cpu"), "fp32"),
        ).class_features
        for c, seed in zip(clip, (1, 1, 2), strict=True)
    ]
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])


def test_arm_dropout_reaches_the_adapter(clip_folder: Path) -> None:
    one, each = (fit(clip_folder, "block-lora", arm_dropout=value, lr=1e-2) for value in (False, True))
    assert each.model.peft_config["default"].arm_dropout is True
    assert each.trainable_parameters == one.trainable_parameters
    assert not torch.equal(each.class_features, one.class_features)
