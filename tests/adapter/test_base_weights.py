"""What an adapter of each of PEFT's types does to the base model's own weights; and that it can be saved and loaded."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import KasaConfig
from torch import nn

from blocklora.adapter import base_weight_changes, changes_base, load_adapter

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # BOFT has no compiled kernel here, and says so
TARGETS = ["q_proj", "v_proj"]
SMALL: dict[str, dict[str, Any]] = {
    "BOFT": {"boft_block_size": 4},
    "OFT": {"oft_block_size": 4, "r": 0},
    "LN_TUNING": {"target_modules": ["layer_norm1"]},
    "ADALORA": {"total_step": 10},
    "VBLORA": {"num_vectors": 16, "vector_length": 8, "topk": 2},
    "C3A": {"block_size": 8},
    "IA3": {"feedforward_modules": []},
    "GRALORA": {"r": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["token_embedding"], "token_indices": [1, 2]},
    "FOURIERFT": {"n_frequency": 10},
    "WAVEFT": {"n_frequency": 10},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "MISS": {"r": 4},
    "SHIRA": {"r": 2},
    "PSOFT": {"r": 4},
    "FROD": {"target_modules": r"vision_model.*\.q_proj"},
}
# These are not adapters of linear layers, or cannot stand in CLIP: they need task ids, hidden states or a decoder.
ELSEWHERE = {
    "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "PREFIX_TUNING", "PROMPT_TUNING",
    "P_TUNING", "SHADOW", "XLORA",
}  # fmt: skip
TYPES: dict[str, Any] = {
    str(getattr(kind, "value", kind)): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in sorted(TYPES.keys() - ELSEWHERE)],
    *[("LORA", {"init_lora_weights": start}) for start in (False, "gaussian", "orthogonal", "mica", "pissa", "olora")],
    ("LORA", {"kasa_config": KasaConfig()}),
    ("LORA", {"use_dora": True}),
    ("LORA", {"lora_bias": True}),
    ("LORA", {"modules_to_save": ["visual_projection"]}),
    ("LORA", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    ("LORA", {"bias": "lora_only"}),
    ("BLOCKLORA", {"parametrization": "folded"}),
    ("BLOCKLORA", {"bias": "blocklora_only"}),
    *[(name, {"bias": "all"}) for name in ("ADALORA", "BLOCKLORA", "BOFT", "DELORA", "LORA", "OFT", "VERA")],
    *[("MISS", {"init_weights": start}) for start in ("bat", "mini")],
    ("PSOFT", {"ab_svd_init": "pissa_init"}),
    ("DEFT", {"decomposition_method": "qr"}),
]  # fmt: skip


def make(kind: str, options: dict[str, Any]) -> PeftConfig:
    targets = (
        {"target_modules": TARGETS} if "target_modules" in inspect.signature(TYPES[kind]).parameters else {}
    )
    config: PeftConfig = TYPES[kind](**(targets | SMALL.get(kind, {}) | options))
    return config


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights by the names that they have without an adapter."""
    names = [".base_layer", ".original_module", ".parametrizations"]
    found = {}
    for name, value in model.named_parameters():
        plain = name.removeprefix("base_model.model.")
        for part in names:
            plain = plain.replace(part, "")
        found[plain] = value.detach().clone()
    return found


def train(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**batch).logits_per_image.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)
def test_what_is_said_of_the_base_weights_is_so(
    make_case: Callable[[str], Any], tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    case = make_case("clip")
    base = case.base().requires_grad_(False)
    config = make(kind, options)
    assert base_weight_changes(config) is None
    torch.manual_seed(1)
    model = get_peft_model(copy.deepcopy(base), config)
    train(model, case.batch())
    after = base_weights(model)
    changed = [name for name, value in base.named_parameters() if not torch.equal(after[name], value)]
    assert bool(changed) == changes_base(config), changed
    model.eval().save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(case.run(load_adapter(copy.deepcopy(base), tmp_path)), case.run(model))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"init_lora_weights": "eva"}, "needs a pass over training data"),
        ({"init_lora_weights": "corda"}, "needs a pass over training data"),
        ({"init_lora_weights": "lora_ga"}, "needs a pass over training data"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "quantised"),
        ({"init_lora_weights": "pissa_niter_4"}, "gives other weights when the adapter is loaded"),
    ],
)
def test_what_cannot_be_made_from_the_file_alone(options: dict[str, Any], reason: str) -> None:
    said = base_weight_changes(LoraConfig(**options))
    assert said is not None
    assert reason in said
    assert options["init_lora_weights"] in said


def test_what_is_unknown_counts_as_a_change() -> None:
    config = LoraConfig()
    config.init_lora_weights = "of tomorrow"
    assert changes_base(config)
    config = LoraConfig()
    config.peft_type = "OF_TOMORROW"
    assert changes_base(config)
