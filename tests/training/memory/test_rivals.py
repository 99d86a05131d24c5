"""What the usual ways need: PEFT's counted again, CLIP-LoRA's against the counts of its released code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import CLIPConfig, CLIPModel

from blocklora.clip.towers import PlainTowers
from blocklora.training.memory.costs import TowerShape, image_rows
from blocklora.training.memory.planner import ModelShape, Workload
from blocklora.training.memory.rivals import _peft, clip_lora_need, peft_need

ATEN = torch.ops.aten
CPU_ATTENTION = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}


def counted(run: Callable[[], Tensor], model: Any) -> tuple[int, int]:
    """FLOPs of forward and backward, and bytes kept in between."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: list[Tensor] = []
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            out = run()
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        out.sum().backward()
    return counter.get_total_flops(), sum(size for place, size in storages.items() if place not in own)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_pefts_lora_is_counted_again() -> None:
    width, wide, tokens, n_images = 64, 192, 26, 4
    found = []
    for layers in (2, 3):  # their difference is one block
        tower = {"hidden_size": width, "intermediate_size": wide, "num_attention_heads": 4}
        tower |= {"num_hidden_layers": layers}
        ends = {"vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99}
        config = CLIPConfig(
            text_config=tower | ends,
            vision_config=tower | {"image_size": 20, "patch_size": 4},
            projection_dim=16,
        )
        lora = LoraConfig(r=1, lora_dropout=0.25, target_modules=["q_proj", "k_proj", "v_proj"])
        model = get_peft_model(CLIPModel(config), lora).train().get_base_model()
        towers = PlainTowers(model)
        pixels = torch.randn(n_images, 3, 20, 20)
        found.append(counted(lambda towers=towers, pixels=pixels: towers.images(pixels), model))
    cost = _peft(TowerShape(width, wide, 1, 4, 0, (3, 0, 0, 0)), image_rows(n_images, tokens), 4)
    flops, saved = (one - other for one, other in zip(found[1], found[0], strict=True))
    assert cost.saved == pytest.approx(saved, rel=0.03)
    assert cost.forward + cost.backward == pytest.approx(
        flops, rel=0.1
    )  # the rank's own products are left out


@pytest.mark.parametrize(
    ("n_images", "classes", "gflop", "megabytes"),
    [(16, 5, 1615.6, 2476.6), (4, 12, 578.9, 1083.3), (2, 63, 1216.2, 2629.5)],
)
def test_clip_loras_released_code(n_images: int, classes: int, gflop: float, megabytes: float) -> None:
    shape = TowerShape(768, 3072, 12, 12, 0, (6, 0, 0, 0)), TowerShape(512, 2048, 12, 8, 0, (6, 0, 0, 0))
    model = ModelShape(*shape, tokens=197, side=224, space=512, parameters=149_620_737, trained=184_320)
    work = Workload(model, n_images, (9,) * classes, opening=5)
    need = clip_lora_need(work, 77)
    assert need.flops / 1e9 == pytest.approx(gflop, rel=0.02)
    assert need.saved / 1e6 == pytest.approx(megabytes, rel=0.02)
    assert peft_need(work).saved < need.saved
