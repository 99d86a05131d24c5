"""CLIP at full size with random weights, ImageNet's prompts, and a training step in every variant that is compared.

Cost depends on shapes alone, so random weights and random tokens serve; the prompts have the true lengths of
"a photo of a {name}." for ImageNet's class names, in index order, and share their first five tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from blocklora.adapter import BlockLoraConfig
from blocklora.clip.towers import LeanTowers, PlainTowers
from blocklora.training.memory.planner import Workload
from blocklora.training.memory.shapes import model_shape
from blocklora.training.step import ClassFeatures, Plan, gradient

__all__ = [
    "BACKBONES",
    "OPENING",
    "Batch",
    "Step",
    "bare",
    "batch",
    "layers_step",
    "lengths",
    "ours",
    "peft_lora",
    "top_workload",
    "workload",
]

_START, _END, _STOP = 49406, 49407, 269
_PHOTO = (320, 1125, 539, 320)  # "a photo of a"
OPENING = 1 + len(_PHOTO)
_CONTEXT = 77
_LENGTHS = Path(__file__).parent / "imagenet_prompt_lengths.txt"
_SETTINGS: dict[str, Any] = {
    "r": 2,
    "lora_alpha": 1,
    "lora_dropout": 0.25,
    "target_modules": ["q_proj", "k_proj", "v_proj"],
}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
BACKBONES: dict[str, CLIPConfig] = {
    "ViT-B/32": CLIPConfig(vision_config={"patch_size": 32}, projection_dim=512),
    "ViT-B/16": CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512),
    "ViT-L/14": CLIPConfig(
        text_config=_LARGE_TEXT, vision_config=_LARGE | {"patch_size": 14}, projection_dim=768
    ),
    "ViT-L/14@336": CLIPConfig(
        text_config=_LARGE_TEXT,
        vision_config=_LARGE | {"patch_size": 14, "image_size": 336},
        projection_dim=768,
    ),
}


@dataclass(frozen=True)
class Batch:
    """Pixel values (B, 3, S, S), labels (B,), and the prompts of all classes (N, 77), padded."""

    pixels: Tensor
    labels: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Step:
    """A training step that can be run again and again, and the model that it trains."""

    run: Callable[[], Any]
    model: Any


def lengths(classes: int) -> list[int]:
    """Tokens of the first prompts, both special tokens included; behind the last of the 1,000 they start again."""
    lines = _LENGTHS.read_text(encoding="utf-8").splitlines()
    numbers = [int(word) for line in lines if not line.startswith("#") for word in line.split()]
    return (numbers * -(-classes // len(numbers)))[:classes]


def batch(backbone: str, images: int, classes: int, device: str = "cpu") -> Batch:
    """Random images, and random names of the true lengths."""
    random = torch.Generator().manual_seed(0)
    side = BACKBONES[backbone].vision_config.image_size
    tokens = torch.full((classes, _CONTEXT), _END)
    tokens[:, 0], tokens[:, 1:OPENING] = _START, torch.tensor(_PHOTO)
    for row, length in zip(tokens, lengths(classes), strict=True):
        row[OPENING : length - 2] = torch.randint(1000, 40000, (length - 2 - OPENING,), generator=random)
        row[length - 2] = _STOP
    pixels = torch.randn(images, 3, side, side, generator=random).to(device)
    return Batch(pixels, (torch.arange(images) % classes).to(device), tokens)


def ours(
    backbone: str, data: Batch, plan: Plan, *, dtype: torch.dtype | None = None, start: bool | str = True
) -> Step:
    """Block-LoRA (r = 2, two arms) on the lean engine."""
    config = BlockLoraConfig(n_blocks=2, init_weights=start, **_SETTINGS)
    model = _adapted(backbone, config, data.pixels.device)
    towers = LeanTowers(model, dtype=dtype)
    text = ClassFeatures(towers, data.tokens, trained=True, plan=plan)
    scale = torch.tensor(100.0, device=data.pixels.device)
    optimizer, number = _optimizer(model), iter(range(1 << 30))

    def run() -> None:
        gradient(towers, data.pixels, data.labels, text, scale, plan, torch.autograd.backward,
                 seed=1, step=next(number))  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()

    return Step(run, model)


def layers_step(backbone: str, data: Batch, top: int, *, known: bool) -> Step:
    """Block-LoRA in the top layers of both towers; where ``known``, what lies below was computed before."""
    depths = (
        BACKBONES[backbone].vision_config.num_hidden_layers,
        BACKBONES[backbone].text_config.num_hidden_layers,
    )
    layers = {
        f"{tower}_model": range(depth - top, depth)
        for tower, depth in zip(("vision", "text"), depths, strict=True)
    }
    pattern = "|".join(
        rf"{tower}\.encoder\.layers\.({'|'.join(map(str, chosen))})\.self_attn\.(q|k|v)_proj"
        for tower, chosen in layers.items()
    )
    model = _adapted(
        backbone, BlockLoraConfig(n_blocks=2, **_SETTINGS | {"target_modules": pattern}), data.pixels.device
    )
    towers = LeanTowers(model)
    text = ClassFeatures(towers, data.tokens, trained=True, plan=Plan())
    inputs = towers.images_before(data.pixels) if known else data.pixels
    optimizer, number = _optimizer(model), iter(range(1 << 30))
    scale = torch.tensor(100.0)

    def run() -> None:
        gradient(towers, inputs, data.labels, text, scale, Plan(), torch.autograd.backward,
                 seed=1, step=next(number))  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()

    return Step(run, model)


def peft_lora(backbone: str, data: Batch, *, padded_to: int, dtype: torch.dtype | None = None) -> Step:
    """PEFT's LoRA (r = 2) in transformers' CLIPModel, all prompts padded to one length."""
    model = _adapted(backbone, LoraConfig(**_SETTINGS), data.pixels.device)
    towers, optimizer = PlainTowers(model, dtype=dtype), _optimizer(model)
    tokens = data.tokens[:, :padded_to].to(data.pixels.device)

    def run() -> None:
        logits = 100 * towers.images(data.pixels) @ towers.texts(tokens).T  # (B, N)
        F.cross_entropy(logits, data.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(run, model)


def bare(backbone: str, data: Batch, *, dtype: torch.dtype | None = None) -> Step:
    """The frozen model's forward alone: images by transformers, and every distinct token of the texts once."""
    model = _frozen(backbone, data.pixels.device)
    plain, lean = PlainTowers(model, dtype=dtype), LeanTowers(model, dtype=dtype)
    ((_, one_pass),) = lean.passes(data.tokens)

    @torch.no_grad()
    def run() -> None:
        plain.images(data.pixels)
        lean.texts(one_pass)

    return Step(run, model)


def workload(
    backbone: str, images: int, classes: int | list[int], *, number: int = 4, opening: int = OPENING
) -> Workload:
    """The same step as ``ours``, for the planner; ``classes`` may be the lengths of the prompts."""
    config = BACKBONES[backbone]
    towers = {"vision": config.vision_config, "text": config.text_config}
    adapted = {name: (range(tower.num_hidden_layers), (3, 0, 0, 0)) for name, tower in towers.items()}
    # q, k and v of every block: A (1, d), and B (d, 1) of two arms
    trained = sum(9 * tower.hidden_size * tower.num_hidden_layers for tower in towers.values())
    names = lengths(classes) if isinstance(classes, int) else classes
    return Workload(model_shape(config, adapted, trained), images, tuple(names), opening, number)


def top_workload(backbone: str, images: int, classes: int, top: int, *, known: bool) -> Workload:
    """The step of ``layers_step``, for the planner."""
    config, work = BACKBONES[backbone], workload(backbone, images, classes)
    towers = {"vision": config.vision_config, "text": config.text_config}
    adapted = {
        name: (range(tower.num_hidden_layers - top, tower.num_hidden_layers), (3, 0, 0, 0))
        for name, tower in towers.items()
    }
    return replace(
        work, model=model_shape(config, adapted, work.model.trained), views_bytes=0 if known else None
    )


def _frozen(backbone: str, device: Any) -> Any:
    torch.manual_seed(0)
    return CLIPModel(BACKBONES[backbone]).requires_grad_(False).to(device)


def _adapted(backbone: str, config: Any, device: Any) -> Any:
    model: Any = get_peft_model(_frozen(backbone, device), config).to(device)
    return model.get_base_model().train()


def _optimizer(model: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
