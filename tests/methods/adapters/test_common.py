"""What Block-LoRA and LoRA share: where the adapter stands, how many parameters it has, and its seed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_task import classes_of, fit, train_pixels

from blocklora.clip import Clip, class_features, image_features
from blocklora.methods import AdapterSettings, FitResult, Job
from blocklora.methods.adapters.common import target_pattern
from blocklora.methods.adapters.settings import TARGETS


def adapted(fitted: FitResult) -> set[str]:
    adapter = fitted.classifier.adapter
    return {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("towers", ["both", "vision", "text"])
@pytest.mark.parametrize("layers", ["all", "top-1", "bottom-1"])
@pytest.mark.parametrize("targets", [("q", "k", "v"), ("out",), ("fc1", "fc2", "v")])
def test_the_pattern_names_exactly_the_chosen_layers(
    clip: Clip, towers: Any, layers: str, targets: tuple[str, ...]
) -> None:
    pattern = target_pattern(AdapterSettings(towers=towers, layers=layers, targets=targets), clip)
    found = {name for name, _ in clip.model.named_modules() if re.fullmatch(pattern, name)}
    indices = {"all": [0, 1], "top-1": [1], "bottom-1": [0]}[layers]
    expected = {
        f"{tower}_model.encoder.layers.{index}.{TARGETS[target]}"
        for tower in (["vision", "text"] if towers == "both" else [towers])
        for index in indices
        for target in targets
    }
    assert found == expected


# Width 32, two layers in each of two towers, q/k/v: 12 layers of d_in = d_out = 32.
@pytest.mark.parametrize(
    ("method", "settings", "parameters"),
    [
        ("clip-lora", {"r": 2}, 12 * 2 * (32 + 32)),
        ("block-lora", {"r": 2, "n_blocks": 2}, 12 * (1 * 32 + 2 * 32)),
        ("block-lora", {"r": 4, "n_blocks": 2}, 12 * (2 * 32 + 4 * 32)),
        ("block-lora", {"r": 4, "n_blocks": 2, "parametrization": "folded"}, 12 * 2 * (32 + 32)),
        ("block-lora", {"r": 2, "n_blocks": 1, "targets": ("fc1",), "layers": "top-1"}, 2 * 2 * (32 + 64)),
    ],
)
def test_trained_parameters(job: Job, method: str, settings: dict[str, Any], parameters: int) -> None:
    fitted = fit(job, method, iterations=3, lr=1e-3, **settings)
    assert fitted.trainable_parameters == parameters
    assert fitted.training is not None
    assert len(fitted.training.losses) == 3
    kept = fitted.choices["kept step"]
    assert (kept.value, kept.by) == (3, "fixed")
    assert fitted.engine is not None
    assert fitted.engine.engine == "lean"
    assert fitted.engine.micro_batch > 0


@pytest.mark.parametrize("towers", ["vision", "text"])
def test_one_tower_alone(job: Job, towers: str) -> None:
    fitted = fit(job, "block-lora", iterations=3, lr=1e-3, towers=towers)
    assert all(f"{towers}_model." in name for name in adapted(fitted))
    plain = class_features(job.clip.model, job.task.tokens)
    assert torch.allclose(plain, classes_of(fitted), rtol=1e-5, atol=1e-6) == (towers == "vision")


def test_the_model_itself_has_no_adapter(job: Job) -> None:
    values = train_pixels(job)
    before = image_features(job.clip.model, values)
    fitted = fit(job, "block-lora", iterations=3, lr=1e-2)
    assert torch.equal(image_features(job.clip.model, values), before)
    assert torch.equal(fitted.classifier.zero_shot_image_features(values), before)
    assert not torch.allclose(fitted.classifier.image_features(values), before, atol=1e-4)


def test_the_seed_decides(job: Job) -> None:
    one, same, other = (
        classes_of(fit(replace(job, seed=seed), "block-lora", iterations=3, lr=1e-2)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
