"""A training step on every device against float64 on the CPU; what a CPU can do of it is done there as well."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from torch import Tensor

from blocklora.adapter import BlockLoraConfig
from blocklora.clip import Engine, load_clip, make_towers, tokenize
from blocklora.core.device import Compute
from blocklora.methods.adapters.common import _with_adapter
from blocklora.training.step import ClassFeatures, Plan, gradient

SEED, NAMES = 5, ("red square", "green disc", "blue cross", "dog", "cat")
KEEPS = ("all", "no-mlp", "inputs")
CUTS = [Plan(micro_batch=3, chunk=2), Plan("no-mlp", "inputs", 2, 3)]
ERRORS = {"fp32": 1e-4, "bf16": 0.2, "fp16": 0.03}
"""The largest error of all gradients together, relative to their norm; 16 bits also meet torch's own autocast."""


class Case:
    """A small random CLIP with an adapter, and a batch."""

    def __init__(self, folder: Path, dropout: float) -> None:
        clip = load_clip(str(folder))
        targets = r".*(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
        config = BlockLoraConfig(r=4, n_blocks=2, lora_alpha=4, lora_dropout=dropout, target_modules=targets)
        self.model: Any = _with_adapter(clip.model, config, SEED).get_base_model()
        generator = torch.Generator().manual_seed(SEED)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
                assert "lora" in name or "block" in name
        self.tokens, _ = tokenize(
            [f"a photo of a {name}." for name in NAMES], clip.tokenizer, clip.context_length
        )
        self.pixels = torch.randn(6, 3, 32, 32, generator=generator)
        self.labels = torch.arange(6) % len(NAMES)

    def gradients(
        self, device: str, precision: str, plan: Plan, engine: Engine = "lean"
    ) -> dict[str, Tensor]:
        """The gradients of one step, as float64 on the CPU."""
        compute = Compute(torch.device(device), precision)
        model = self.model.to(device)
        model.train()
        towers = make_towers(model, engine=engine, dtype=compute.dtype)
        with compute.training():
            text = ClassFeatures(towers, self.tokens, trained=True, plan=plan)
            pixels, labels = self.pixels.to(device), self.labels.to(device)
            scale = model.logit_scale.exp()
            gradient(
                towers, pixels, labels, text, scale, plan, compute.backward, seed=SEED, step=3
            )  # fmt: skip
        found = {
            name: parameter.grad.cpu().double() / compute.scaler.get_scale()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        model.zero_grad()
        model.cpu()
        return found

    def reference(self) -> dict[str, Tensor]:
        """The gradients by transformers' own forward in float64."""
        model = copy.deepcopy(self.model).double().eval()
        image = model.get_image_features(pixel_values=self.pixels.double()).pooler_output
        text = model.get_text_features(input_ids=self.tokens).pooler_output
        scores = model.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        F.cross_entropy(scores, self.labels).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The norm of the difference of all gradients, relative to the norm of what is wanted."""
    assert found.keys() == wanted.keys()
    apart = torch.cat([(found[name] - value).flatten() for name, value in wanted.items()]).norm()
    return float(apart / torch.cat([value.flatten() for value in wanted.values()]).norm())


def skip_what_a_device_lacks(device: str, precision: str) -> None:
    """fp16 is for CUDA alone."""
    if precision == "fp16" and device != "cuda":
        pytest.skip("fp16 needs CUDA")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", list(ERRORS))
@pytest.mark.parametrize("plan", [*(Plan(keep, keep) for keep in KEEPS), *CUTS], ids=str)
def test_every_level_in_every_precision(clip_folder: Path, device: str, precision: str, plan: Plan) -> None:
    skip_what_a_device_lacks(device, precision)
    case = Case(clip_folder, dropout=0.0)
    wanted = case.reference()
    found = error(case.gradients(device, precision, plan), wanted)
    assert found <= ERRORS[precision]
    if precision != "fp32":
        assert found <= 1.5 * error(case.gradients(device, precision, Plan(), "plain"), wanted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", list(ERRORS))
def test_what_is_recomputed_has_the_same_masks(clip_folder: Path, device: str, precision: str) -> None:
    skip_what_a_device_lacks(device, precision)
    case = Case(clip_folder, dropout=0.3)
    kept = case.gradients(device, precision, Plan())
    for keep in KEEPS[1:]:
        assert error(case.gradients(device, precision, Plan(keep, keep)), kept) <= ERRORS[precision] / 2
    assert error(case.reference(), kept) > 2 * ERRORS[precision]  # the masks do something
