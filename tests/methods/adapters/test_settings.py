"""The settings of the adapters: defaults, what cannot work, and which blocks are chosen."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.methods import AdapterSettings, find_method, make_settings, settings_json
from blocklora.methods.adapters.settings import chosen_layers


def test_defaults_are_the_published_recipe() -> None:
    settings = AdapterSettings()
    assert (settings.lr, settings.weight_decay, settings.batch_size, settings.dropout) == (
        2e-4,
        1e-2,
        32,
        0.25,
    )
    assert (settings.r, settings.alpha, settings.targets, settings.towers) == (
        2,
        1.0,
        ("q", "k", "v"),
        "both",
    )
    assert settings.STEPS_A_SHOT == 500
    written = json.loads(json.dumps(settings_json(settings)))
    assert make_settings("clip-lora", AdapterSettings, written) == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations '0': expected a whole number of at least 1"),
        ({"iterations": 2.5}, "iterations '2.5': expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size '0'"),
        ({"batch_size": 2.5}, "batch_size '2.5': expected a whole number of at least 1"),
        ({"r": 0}, "r '0'"),
        ({"lr": 0.0}, "lr '0.0': expected a positive number"),
        ({"lr": float("nan")}, "lr 'nan'"),
        ({"weight_decay": -1.0}, "weight_decay '-1.0'"),
        ({"alpha": 0.0}, "alpha '0.0'"),
        ({"dropout": 1.0}, "dropout '1.0': expected a probability"),
        ({"parametrization": "whole"}, "parametrization 'whole': expected one of blocks, folded"),
        ({"towers": "none"}, "towers 'none': expected one of both, vision, text"),
        ({"arm_dropout": True, "parametrization": "folded"}, "arm_dropout 'True': expected false where"),
        ({"augment": "flip"}, "augment 'flip': expected one of crop-flip, crop, none"),
        ({"engine": "fast"}, "engine 'fast': expected one of"),
        ({"targets": ()}, "targets '': expected some of q, k, v, out, fc1, fc2"),
        ({"targets": ("q", "w")}, "targets 'w': expected one of q, k, v, out, fc1, fc2"),
        ({"layers": "top"}, "layers 'top': expected all, top-N or bottom-N"),
        ({"layers": "top-0"}, "layers 'top-0'"),
        ({"layers": "half-up"}, "layers 'half-up'"),
    ],
)
def test_wrong_values_name_themselves(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        AdapterSettings(**wrong)


@given(st.integers(1, 40), st.integers(1, 40))
def test_top_and_bottom_part_a_tower(depth: int, n: int) -> None:
    assert chosen_layers("all", depth) == list(range(depth))
    top, bottom = chosen_layers(f"top-{n}", depth), chosen_layers(f"bottom-{n}", depth)
    assert len(top) == len(bottom) == min(n, depth)
    assert top[-1] == depth - 1
    assert bottom[0] == 0
    if n < depth:
        assert sorted(chosen_layers(f"bottom-{depth - n}", depth) + top) == list(range(depth))


@pytest.mark.parametrize("r", [1, 3])
def test_lora_ranks_need_no_blocks(r: int) -> None:
    assert make_settings("clip-lora", find_method("clip-lora").settings, {"r": r}).r == r
    with pytest.raises(ConfigError, match=f"n_blocks '2': expected a divisor of r = {r}"):
        make_settings("block-lora", find_method("block-lora").settings, {"r": r})
