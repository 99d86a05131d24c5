"""Fixed views: which are shown, and that what is computed of them once changes no gradient."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from blocklora.adapter import BlockLoraConfig, param_groups
from blocklora.clip import load_clip, load_image_tower, make_towers, tokenize
from blocklora.clip.towers import LeanTowers
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.data import Example
from blocklora.methods.adapters.common import _with_adapter
from blocklora.training import FixedViews, TrainingImages, train
from blocklora.training.step import ClassFeatures, Plan, gradient
from blocklora.training.views import EncodedViews

CPU = torch.device("cpu")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def images(clip_folder: Path) -> TrainingImages:
    """Seven noisy images, three a step."""
    noise = np.random.default_rng(0)
    examples = [
        Example(str(place), place % 3, Image.fromarray(noise.integers(0, 255, (40, 44, 3), dtype=np.uint8)))
        for place in range(7)
    ]
    processor = load_image_tower(str(clip_folder)).processor
    return TrainingImages(examples, processor, batch_size=3, augment="crop-flip", seed=1)


def test_epochs_show_the_views_in_turn(images: TrainingImages) -> None:
    views = FixedViews(images, 2)
    for step in range(9):
        wanted = [2 * index + (step // 3) % 2 for index in images.indices(step)]
        assert views.rows(step) == wanted
        pixels, labels = views.batch(step)
        rows = torch.cat([views.views(index) for index in range(7)])
        assert torch.equal(pixels, rows[wanted])
        assert torch.equal(labels, images.labels(step))
    assert not torch.equal(views.views(0)[0], views.views(0)[1])
    assert torch.equal(views.batch(0)[0], views.batch(6)[0]) is (images.indices(0) == images.indices(6))


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_what_is_encoded_is_what_is_shown(images: TrainingImages, number: int, size: int) -> None:
    views = FixedViews(images, number)
    asked: list[int] = []

    def encode(pixels: Tensor) -> Tensor:
        asked.append(len(pixels))
        return pixels.flatten(1)[:, :50]

    encoded = EncodedViews(views, encode, size, CPU)
    assert sum(asked) == 7 * number
    assert max(asked) <= size
    for step in (0, 2, 4):
        found, labels = encoded.batch(step)
        assert torch.equal(found, encode(views.batch(step)[0]))
        assert torch.equal(labels, images.labels(step))


def top_case(random_clip: Any, dropout: float) -> Any:
    pattern = r".*(vision|text)_model\..*layers\.[1-9]\d*\..*(q_proj|v_proj|fc2)"
    return random_clip(
        BlockLoraConfig(r=4, n_blocks=2, lora_dropout=dropout, init_weights=False, target_modules=pattern)
    )


@pytest.mark.parametrize("plan", [Plan(), Plan("inputs", "no-mlp", 2, 4), Plan("no-mlp", "inputs", 1, 1)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_gradient_is_that_of_the_whole_tower(random_clip: Any, plan: Plan, dropout: float) -> None:
    """In float64, masks of dropout and all: what was computed before changes nothing, in either tower."""
    case = top_case(random_clip, dropout)
    case.model.train()
    found = []
    for known in (False, True):
        towers = LeanTowers(case.model)
        assert towers._images.first_trained == towers._texts.first_trained == 1
        text = ClassFeatures(towers, case.tokens, trained=True, plan=plan)
        inputs = towers.images_before(case.pixels) if known else case.pixels
        scale = case.model.logit_scale.detach().exp()
        loss = gradient(
            towers, inputs, case.labels, text, scale, plan, torch.autograd.backward, seed=2, step=5
        )
        found.append((loss, case.gradients()))
    (loss, gradients), (same, others) = found
    torch.testing.assert_close(loss, same, rtol=1e-12, atol=0)
    for name, value in gradients.items():
        if value is not None:
            assert (value - others[name]).abs().max() <= 1e-12 * value.abs().max(), name


def source(folder: Path) -> TrainingImages:
    """Nine images in three colours."""
    examples = [
        Example(f"{colour}{i}", label, Image.new("RGB", (40, 36), colour))
        for i in range(3)
        for label, colour in enumerate(COLOURS)
    ]
    return TrainingImages(
        examples, load_clip(str(folder)).processor, batch_size=4, augment="crop-flip", seed=3
    )


class Shown:
    """Fixed views that nothing is computed of beforehand."""

    fixed = False

    def __init__(self, views: FixedViews) -> None:
        self._views, self.batch_size = views, views.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self._views.batch(step)

    def indices(self, step: int) -> list[int]:
        return self._views.images.indices(step)


def run(folder: Path, images: Any) -> tuple[Tensor, Tensor]:
    """Train adapters in the last blocks; losses, and all that was learned."""
    clip = load_clip(str(folder))
    config = BlockLoraConfig(
        r=4, n_blocks=2, lora_alpha=4, lora_dropout=0.25, target_modules=r".*layers\.1\.self_attn\.(q|v)_proj"
    )
    model = _with_adapter(clip.model, config, 3)
    tokens, _ = tokenize([f"a photo of a {c}." for c in COLOURS], clip.tokenizer, clip.context_length)
    towers, groups = make_towers(model.get_base_model()), param_groups(model, lr=5e-3, weight_decay=0.01)
    compute = Compute(CPU, "fp32")
    losses = train(towers, groups, tokens, images, compute, iterations=6, lr=5e-3, seed=3).losses
    return losses, torch.cat(
        [value.detach().flatten() for value in model.parameters() if value.requires_grad]
    )


def test_training_on_views_that_were_encoded_is_training_on_the_views(
    clip_folder: Path, tmp_path: Path
) -> None:
    """Exact but for the rounding to 16 bits, and the same bits from a file."""
    images = source(clip_folder)
    views = FixedViews(images, 2)
    losses, learned = run(clip_folder, Shown(views))
    exact = run(clip_folder, FixedViews(images, 2, exact=True))
    torch.testing.assert_close(exact[0], losses, rtol=1e-6, atol=0)
    torch.testing.assert_close(exact[1], learned, rtol=0, atol=1e-6)
    halves = run(clip_folder, views)
    torch.testing.assert_close(halves[0], losses, rtol=2e-3, atol=0)
    on_disk = run(clip_folder, FixedViews(images, 2, folder=tmp_path))
    assert torch.equal(on_disk[1], halves[1])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_is_said(
    images: TrainingImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(pixels: Tensor) -> Tensor:
        return torch.full((len(pixels), 2, 3), 1e6)

    with pytest.raises(ConfigError, match=r"cached_views: .*too large for 16 bits"):
        EncodedViews(FixedViews(images, 1), large, 4, CPU)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 90, 10))
    with pytest.raises(ConfigError, match=r"the views need 84 B, .* has 10 B free; ask for fewer views"):
        EncodedViews(
            FixedViews(images, 1, folder=tmp_path), lambda pixels: torch.ones(len(pixels), 2, 3), 4, CPU
        )
