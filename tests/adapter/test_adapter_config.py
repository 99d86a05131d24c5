"""The configuration: what it accepts, resolves, refuses and writes; and how it becomes known to PEFT."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
from peft import mapping

import blocklora.adapter as adapter
from blocklora.adapter import BlockLoraConfig, BlockLoraModel, BlockLoraPeftType, check_peft_version
from blocklora.adapter.config import LayerSettings
from blocklora.core.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"r": 5, "n_blocks": 2}, "r=5 is not a multiple of n_blocks=2.*use r=6 or another n_blocks"),
        ({"r": 0}, "`r` should be a positive integer value but the value passed is 0"),
        ({"n_blocks": 0}, "`n_blocks` should be a positive integer value but the value passed is 0"),
        ({"r": 4.0}, "`r` should be a positive integer"),
        ({"n_blocks": True}, "`n_blocks` should be a positive integer"),
        ({"lora_dropout": 1.0}, r"lora_dropout=1.0 is outside \[0, 1\)"),
        ({"lora_alpha": math.inf}, "lora_alpha=inf is not a finite number"),
        ({"bias": "lora_only"}, "bias='lora_only' is unknown; expected one of none, all, blocklora_only"),
        ({"parametrization": "split"}, "parametrization='split' is unknown; expected one of blocks, folded"),
        ({"init_weights": "pissa"}, "init_weights='pissa' is unknown"),
        (
            {"parametrization": "folded", "arm_dropout": True},
            "arm_dropout=True .* use parametrization='blocks'",
        ),
        ({"target_modules": "q", "layers_to_transform": [1]}, "`layers_to_transform` cannot be used"),
        ({"target_modules": "q", "layers_pattern": "h"}, "`layers_pattern` cannot be used"),
        ({"layers_pattern": "h"}, "`layers_to_transform` must also be specified"),
    ],
)
def test_values_that_cannot_work(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        BlockLoraConfig(**options)


def test_patterns_resolve_by_name() -> None:
    config = BlockLoraConfig(
        r=4,
        n_blocks=2,
        lora_alpha=8,
        rank_pattern={"q": 6, r"layers\.1\.v": 8},
        blocks_pattern={"q": 3},
        alpha_pattern={"v": 1},
    )
    assert config.for_layer("m.layers.0.q") == LayerSettings(6, 3, 8)
    assert config.for_layer("m.layers.1.v") == LayerSettings(8, 2, 1)
    assert config.for_layer("m.layers.0.k") == LayerSettings(4, 2, 8)
    with pytest.raises(ConfigError, match=r"r=4 is not a multiple of n_blocks=3 for layer 'x.q'"):
        BlockLoraConfig(r=4, blocks_pattern={"q": 3}).for_layer("x.q")


def test_scale_uses_the_total_rank() -> None:
    layer = LayerSettings(16, 4, 2)
    assert BlockLoraConfig().scale(layer) == 2 / 16
    assert BlockLoraConfig(use_rslora=True).scale(layer) == 2 / 4


def test_round_trip_through_json(tmp_path: Path) -> None:
    config = BlockLoraConfig(
        r=6, n_blocks=3, target_modules=["b", "a"], exclude_modules=["c"], init_weights="gaussian"
    )
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "BLOCKLORA"
    for cls in (peft.PeftConfig, BlockLoraConfig):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is BlockLoraConfig
        assert loaded == config
    assert loaded.target_modules == {"a", "b"}


def test_registered_once_and_again() -> None:
    importlib.reload(adapter)
    adapter.register()
    for key in (BlockLoraPeftType.BLOCKLORA, "BLOCKLORA"):
        assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING[key] is BlockLoraConfig
        assert mapping.PEFT_TYPE_TO_TUNER_MAPPING[key] is BlockLoraModel
        assert mapping.PEFT_TYPE_TO_PREFIX_MAPPING[key] == "blocklora_"
    prefixes = list(mapping.PEFT_TYPE_TO_PREFIX_MAPPING.values())
    assert prefixes.count("blocklora_") == 1
    assert isinstance(peft.get_peft_config({"peft_type": "BLOCKLORA", "r": 2}), BlockLoraConfig)


@pytest.mark.parametrize("version", ["0.20.9", "0.22.0", "1.0"])
def test_other_versions_of_peft_are_refused(version: str) -> None:
    with pytest.raises(
        ImportError, match=rf"peft >= 0.21 and < 0.22, but peft {version} is installed; run: pip"
    ):
        check_peft_version(version)


@pytest.mark.parametrize("version", ["0.21.0", "0.21.1", "0.21.2"])
def test_versions_of_peft_that_fit(version: str) -> None:
    assert check_peft_version(version) is None


def test_public_names_are_sorted_and_there() -> None:
    assert adapter.__all__ == sorted(adapter.__all__)
    assert all(hasattr(adapter, name) for name in adapter.__all__)
