"""``blocklora plan``: from a configuration alone, and true to the model that would be trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from blocklora import BlockLoraConfig, FewShotClassifier
from blocklora.cli.app import app
from blocklora.clip import load_clip, make_towers, tokenize
from blocklora.clip.text_plan import prompt_lengths, text_plan
from blocklora.core.errors import ConfigError, ModelError
from blocklora.core.resources import Resources
from blocklora.data import Example
from blocklora.methods.adapters.common import _with_adapter
from blocklora.run import plan
from blocklora.run.plan import KNOWN, plan_step
from blocklora.training import TrainingImages, plan_memory
from blocklora.training.memory import limits

RUN = CliRunner()


def test_imagenet_on_24_gigabytes() -> None:
    found = plan_step("ViT-B/16", 1000, memory="24GB", device="cuda", precision="fp32")
    assert found.trained_numbers == 138_240
    assert found.weights_bytes == 4 * 149_620_737
    assert found.chosen.plan == "each block keeps everything"
    assert found.chosen.peak_bytes < found.peft_lora.peak_bytes < found.clip_lora.peak_bytes
    assert found.chosen.need.flops < found.peft_lora.need.flops < found.clip_lora.need.flops
    peaks = [cut.peak_bytes for cut in found.plans]
    assert peaks == sorted(peaks, reverse=True)


def test_a_step_that_processes_share() -> None:
    given: dict[str, Any] = {"memory": "24GB", "device": "cuda", "precision": "fp32", "batch_size": 30}
    alone, one = plan_step("ViT-B/16", 1000, **given), plan_step("ViT-B/16", 1000, processes=4, **given)
    assert (one.own_images, one.batch_size, one.classes) == (8, 30, 1000)
    assert one.own_classes == pytest.approx(250, rel=0.4)  # the shortest names, as many tokens as the others
    assert alone.chosen.need.flops / 30 * 8 == pytest.approx(one.chosen.need.flops, rel=0.05)
    assert one.chosen.need.step < alone.chosen.need.step
    assert one.exchanged_bytes == 2 * 4 * 30 * 512 + 20 * 30 + 4 * 138_240
    assert alone.exchanged_bytes == 0
    assert (one.clip_lora.need, one.peft_lora.need) == (alone.clip_lora.need, alone.peft_lora.need)
    done = RUN.invoke(app, ["plan", "--memory", "24GB", "--device", "cpu", "--processes", "4"])
    assert "Each of 4 processes has at most 8 images and about" in " ".join(done.stdout.split())


@pytest.mark.parametrize("model", [*KNOWN, "B/32", "openai/clip-vit-large-patch14", "tiny"])
def test_less_memory_takes_a_smaller_plan(model: str) -> None:
    gpu: dict[str, Any] = {"device": "cuda", "precision": "fp32"}
    roomy = plan_step(model, 100, memory="80GB", **gpu)
    tight = plan_step(model, 100, memory=str(roomy.chosen.peak_bytes - 1), **gpu)
    assert tight.chosen.peak_bytes < roomy.chosen.peak_bytes
    assert tight.chosen.plan != roomy.chosen.plan
    assert (
        plan_step(model, 100, memory="80GB", device="cuda").chosen.need.step < roomy.chosen.need.step
    )  # bf16


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
    assert found.weights_bytes == 4 * sum(p.numel() for p in base.parameters())
    classifier = FewShotClassifier(model=str(clip_folder), shots=1, iterations=1, **settings)
    paths = sorted(photos.glob("*/*.png"))
    classifier.fit(paths, [path.parent.name for path in paths])
    adapter = classifier.classifier_.adapter
    trained = [p.numel() for name, p in adapter.named_parameters() if "lora_" in name]
    assert found.trained_numbers == sum(trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes 0, batch_size 32, processes 1: expected at least 1 of each"),
        ({"processes": 0}, "processes 0: expected at least 1 of each"),
        (
            {"processes": 2, "layers": "top-3", "cached_views": 0},
            "cached_views '0': is for one process, and 2 were",
        ),
        ({"method": "coop"}, "method 'coop': expected block-lora or clip-lora"),
        ({"memory": "700MB"}, "the smallest plan needs .* allow more memory"),
        ({"device": "cuda:7", "memory": None}, "device 'cuda:7': not found on this machine"),
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
    done = RUN.invoke(app, ["plan", "--classes", "1000", "--memory", "24GB", "--device", "cpu"])
    assert done.exit_code == 0
    for text in (
        "this plan",
        "smallest",
        "plain PEFT LoRA",
        "CLIP-LoRA's code",
        "138,240 trainable parameters",
        "limit 24.0 GB on the device cpu",
        "Peak memory is that of the whole process",
    ):
        assert text in " ".join(done.stdout.split())
    done = RUN.invoke(app, ["plan", "--model", "tiny", "--memory", "8GB", "--json"])
    found = json.loads(done.stdout)
    assert found["limit_bytes"] == 8 * 10**9
    needs = {"peak_bytes", "flops", "saved", "step", "host"}
    assert found.keys() == needs | {
        "model", "device", "classes", "batch_size", "bytes_a_number", "trained_numbers", "limit_bytes", "plan",
        "weights_bytes", "before_bytes", "smaller_plans", "clip_lora", "peft_lora",
        "views", "views_bytes", "processes", "own_images", "own_classes", "exchanged_bytes",
    }  # fmt: skip
    assert found["peft_lora"].keys() == needs
    assert all(plan.keys() == needs | {"plan"} for plan in found["smaller_plans"])
    done = RUN.invoke(
        app, ["plan", "--layers", "top-3", "--cached-views", "0", "--memory", "8GB", "--device", "cpu"]
    )
    assert "Lower layers run once over 16 views of each image" in " ".join(done.stdout.split())
    with pytest.raises(ConfigError, match="cached_views 4: the first block is adapted"):
        plan_step("tiny", 10, cached_views=4)
    done = RUN.invoke(app, ["plan", "--memory", "24GB", "--device", "cuda"])
    text = " ".join(done.stdout.split())
    assert "Peak memory is that of tensors on the GPU (598 MB of fp32 weights and the step)" in text
    assert "host memory for reading images ahead" in text


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("memory", [None, "4GB", "1.35GB"])
def test_plan_and_fit_price_alike(
    kind: str, memory: str | None, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same shapes on the same machine: the same plans, limit and peak."""
    names = ["cat", "dog", "a large brown bear", "owl"]
    clip = load_clip(str(clip_folder))
    weights = 4 * sum(p.numel() for p in clip.model.parameters())
    config = BlockLoraConfig(r=2, n_blocks=2, target_modules=r".*self_attn\.(q|k|v)_proj")
    towers = make_towers(_with_adapter(clip.model, config, 0).get_base_model())
    tokens, _ = tokenize([f"a photo of a {name}." for name in names], clip.tokenizer, clip.context_length)
    examples = [Example(str(n), n % 4, Image.new("RGB", (500, 375))) for n in range(4 * 16)]
    images = TrainingImages(examples, clip.processor, batch_size=32, augment="crop", seed=0)

    end = int(clip.model.text_model.config.eos_token_id)
    machine = Resources(16, 2 * 10**9)
    process, device = 500 * 10**6, torch.device(kind)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * 10**9, 4 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(limits, "peak_memory_bytes", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: in_use)
    monkeypatch.setattr(
        psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=in_use))
    )
    monkeypatch.setattr(plan, "resolve_device", torch.device)
    monkeypatch.setattr(plan, "_prompt_lengths", lambda _: tuple(prompt_lengths(tokens, end).tolist()))
    monkeypatch.setattr(plan, "_OPENING", text_plan(tokens, end, share=True).opening)
    in_use = (process if kind == "cpu" else 0) + weights  # the model is loaded
    fit = plan_memory(towers, tokens, images, device, memory, machine)
    in_use = process if kind == "cpu" else 0  # it is not, yet
    found = plan_step(
        str(clip_folder), 4, memory=memory, device=kind, precision="fp32", resources=machine, shots=16
    )
    assert fit.need is not None
    assert found.chosen.peak_bytes == fit.predicted
    assert found.chosen.need.step == fit.need.step
    assert found.chosen.need.host == fit.need.host
    assert [cut.plan for cut in found.plans] == list(map(str, fit.plans))
    if memory:
        assert found.limit_bytes == fit.limit
