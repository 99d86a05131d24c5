"""``blocklora plan``: from a configuration alone, and true to the model that would be trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blocklora import FewShotClassifier
from blocklora.cli.app import app
from blocklora.clip import load_clip
from blocklora.core.errors import ConfigError, ModelError
from blocklora.run.plan import KNOWN, plan_step

RUN = CliRunner()


def test_imagenet_on_24_gigabytes() -> None:
    found = plan_step("ViT-B/16", 1000, memory="24GB")
    assert found["trained_numbers"] == 138_240
    assert found["weights_bytes"] == 4 * 149_620_737
    assert found["plan"] == "each block keeps everything"
    assert found["peak_bytes"] < found["peft_lora"]["peak_bytes"] < found["clip_lora"]["peak_bytes"]
    assert found["flops"] < found["peft_lora"]["flops"] < found["clip_lora"]["flops"]
    peaks = [row["peak_bytes"] for row in [found, *found["smaller_plans"]]]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("model", [*KNOWN, "B/32", "openai/clip-vit-large-patch14", "tiny"])
def test_less_memory_takes_a_smaller_plan(model: str) -> None:
    roomy = plan_step(model, 100, memory="80GB")
    tight = plan_step(model, 100, memory=str(roomy["peak_bytes"] - 1))
    assert tight["peak_bytes"] < roomy["peak_bytes"]
    assert tight["plan"] != roomy["plan"]
    assert plan_step(model, 100, memory="80GB", precision="fp16")["step"] < roomy["step"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "clip-lora", "r": 3},
        {"r": 4, "n_blocks": 2, "targets": ("q", "out", "fc1", "fc2"), "layers": "top-1"},
        {"r": 4, "n_blocks": 4, "parametrization": "folded", "towers": "vision"},
        {"r": 4, "n_blocks": 4, "arm_dropout": True, "towers": "text"},
    ],
)
def test_a_plan_counts_what_a_fit_trains(settings: dict[str, Any], clip_folder: Path, photos: Path) -> None:
    found = plan_step(str(clip_folder), 3, memory="8GB", **settings)
    base = load_clip(str(clip_folder)).model
    assert found["weights_bytes"] == 4 * sum(p.numel() for p in base.parameters())
    classifier = FewShotClassifier(model=str(clip_folder), shots=1, iterations=1, **settings)
    paths = sorted(photos.glob("*/*.png"))
    classifier.fit(paths, [path.parent.name for path in paths])
    adapter = classifier.fitted.model
    assert found["trained_numbers"] == sum(p.numel() for p in adapter.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes 0, batch_size 32: expected at least 1 of both"),
        ({"method": "coop"}, "method 'coop': expected block-lora or clip-lora"),
        ({"memory": "700MB"}, "the smallest plan needs .* allow more memory"),
        ({"memory": "much"}, "memory 'much': expected an amount such as 24GB"),
        ({"precision": "fp8"}, "precision 'fp8': expected auto, fp32, bf16 or fp16"),
        ({"targets": ("w",)}, "targets 'w': expected one of q, k, v, out, fc1, fc2"),
    ],
)
def test_what_cannot_be_planned(arguments: dict[str, Any], message: str) -> None:
    given = {"classes": 1000, "memory": "24GB"} | arguments
    with pytest.raises(ConfigError, match=message):
        plan_step("ViT-B/16", given.pop("classes"), **given)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ModelError, match="this is a 'bert' model"):
        plan_step(str(tmp_path), 10)


def test_the_command() -> None:
    done = RUN.invoke(app, ["plan", "--classes", "1000", "--memory", "24GB"])
    assert done.exit_code == 0
    for text in ("this plan", "smallest", "plain PEFT LoRA", "CLIP-LoRA's code", "138,240", "limit 24.0 GB"):
        assert text in " ".join(done.stdout.split())
    done = RUN.invoke(app, ["plan", "--model", "tiny", "--memory", "1GB", "--json"])
    assert json.loads(done.stdout)["limit_bytes"] == 10**9
