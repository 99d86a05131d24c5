from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import CLIPConfig, CLIPModel

from blocklora.adapter import BlockLoraConfig
from blocklora.clip.towers import LeanTowers
from blocklora.training.memory.costs import TowerShape
from blocklora.training.memory.planner import Workload, price
from blocklora.training.memory.shapes import model_shape, workload
from blocklora.training.step import Plan

NONE = ([], (0, 0, 0, 0))

CPU = torch.device("cpu")


def images(fixed: bool) -> Any:
    return SimpleNamespace(batch_size=5, fixed=fixed)


@pytest.mark.parametrize(
    ("text", "vision", "space"),
    [
        ({}, {"patch_size": 16}, 512),  # ViT-B/16
        ({"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
         {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
          "patch_size": 14, "image_size": 336}, 768),  # ViT-L/14@336
    ],
    ids=["B/16", "L/14@336"],
)  # fmt: skip
def test_a_configuration_is_enough(text: dict[str, int], vision: dict[str, int], space: int) -> None:
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=space)
    shape = model_shape(config, {"vision": (range(6, 12), (4, 0, 2, 0)), "text": NONE}, 99)
    with torch.device("meta"):
        model = CLIPModel(config)
    assert shape.parameters == sum(value.numel() for value in model.parameters())
    assert shape.tokens == model.vision_model.embeddings.num_positions
    assert (shape.side, shape.space, shape.trained) == (config.vision_config.image_size, space, 99)
    assert (shape.vision.first, shape.vision.adapted, shape.vision.ranks) == (6, 6, (4, 0, 2, 0))
    assert (shape.vision.width, shape.vision.mlp) == (
        config.vision_config.hidden_size,
        config.vision_config.intermediate_size,
    )
    assert (shape.text.first, shape.text.adapted) == (config.text_config.num_hidden_layers, 0)


def test_which_blocks_are_adapted() -> None:
    top = TowerShape(8, 16, 4, 2, 2, (1, 0, 0, 0))
    assert [top.is_adapted(block) for block in range(4)] == [False, False, True, True]
    middle = TowerShape(8, 16, 4, 2, 1, (1, 0, 0, 0), adapted=1)
    assert [middle.is_adapted(block) for block in range(4)] == [False, True, False, False]
    assert top.widths == ((8, 24), (8, 8), (8, 16), (16, 8))


def test_the_work_of_a_step(random_clip: Any) -> None:
    case = random_clip(
        BlockLoraConfig(r=4, n_blocks=2, target_modules=r".*text_model.*layers\.[12].*(q|v)_proj")
    )
    towers = LeanTowers(case.model)
    found = workload(towers, case.tokens, images(fixed=True), CPU, 2)
    trained = sum(value.numel() for value in case.trained().values())
    assert found == Workload(
        model=found.model,
        images=5,
        lengths=(10, 12, 10, 8, 16, 10),
        opening=4,
        number=8,
        on_cpu=True,
        image_features=True,
    )
    assert found.trains_text
    assert found.model.trained == trained
    assert found.model.text == TowerShape(32, 64, 3, 2, 1, (4, 0, 0, 0), 2)
    assert found.model.vision == TowerShape(48, 80, 3, 3, 3, (0, 0, 0, 0), 0)
    assert found.model.tokens == 17
    base = sum(value.numel() for value in case.model.parameters()) - trained
    assert found.model.parameters == base


def test_the_work_of_one_of_several_processes(random_clip: Any) -> None:
    case = random_clip(LoraConfig(r=2, target_modules=r".*q_proj"))
    towers = LeanTowers(case.model)
    whole = workload(towers, case.tokens, images(fixed=False), CPU, 2)
    shared = workload(towers, case.tokens, images(fixed=False), CPU, 2, ranks=2)
    assert (shared.images, shared.ranks, shared.classes) == (3, 2, 6)
    assert shared.lengths == (8, 10, 10, 10)  # 22 of the 42 tokens behind the opening of 4
    assert workload(towers, case.tokens, images(fixed=False), CPU, 2, ranks=9).lengths == (8,)
    assert price(shared, Plan()).flops < price(whole, Plan()).flops
    assert price(shared, Plan()).step < price(whole, Plan()).step


def test_what_changes_the_work(random_clip: Any) -> None:
    case = random_clip(LoraConfig(r=2, target_modules=r".*vision_model.*fc1"), dtype=torch.float32)
    half = LeanTowers(case.model, dtype=torch.bfloat16, prefix_sharing=False)
    found = workload(half, case.tokens, images(fixed=True), CPU, 2)
    assert (found.number, found.opening, found.image_features, found.trains_text) == (2, 0, False, False)
    case.model.requires_grad_(False)
    assert workload(half, case.tokens, images(fixed=True), CPU, 2).image_features
    assert not workload(half, case.tokens, images(fixed=False), CPU, 2).image_features
