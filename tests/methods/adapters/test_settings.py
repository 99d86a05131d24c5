from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from blocklora.methods.adapters.options import TARGETS, chosen_layers
from hypothesis import given
from hypothesis import strategies as st

from blocklora import FewShotClassifier
from blocklora.clip import load_clip
from blocklora.core.errors import ConfigError
from blocklora.methods import Options
from blocklora.methods.adapters.common import target_pattern


def test_defaults_are_the_published_recipe() -> None:
    options = Options()
    assert (options.lr, options.weight_decay, options.batch_size, options.dropout) == (2e-4, 1e-2, 32, 0.25)
    assert (options.r, options.alpha, options.targets, options.towers) == (2, 1.0, ("q", "k", "v"), "both")
    assert [options.steps(shots) for shots in (1, 4, 16, 100)] == [500, 2000, 8000, 8000]
    assert Options(iterations=7).steps(16) == 7
    assert Options(**(json.loads(json.dumps(options.to_json())) | {"targets": options.targets})) == options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "iterations '0': expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size '0'"),
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
        ({"targets": ()}, "targets '': expected some of q, k, v, out, fc1, fc2"),
        ({"targets": ("q", "w")}, "targets 'w': expected one of q, k, v, out, fc1, fc2"),
        ({"layers": "top"}, "layers 'top': expected all, top-N or bottom-N"),
        ({"layers": "top-0"}, "layers 'top-0'"),
        ({"layers": "half-up"}, "layers 'half-up'"),
    ],
)
def test_wrong_values_name_themselves(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Options(**wrong)


@given(st.integers(1, 40), st.integers(1, 40))
def test_top_and_bottom_part_a_tower(depth: int, n: int) -> None:
    assert chosen_layers("all", depth) == list(range(depth))
    top, bottom = chosen_layers(f"top-{n}", depth), chosen_layers(f"bottom-{n}", depth)
    assert len(top) == len(bottom) == min(n, depth)
    assert top[-1] == depth - 1
    assert bottom[0] == 0
    if n < depth:
        assert sorted(chosen_layers(f"bottom-{depth - n}", depth) + top) == list(range(depth))


@pytest.mark.parametrize("towers", ["both", "vision", "text"])
@pytest.mark.parametrize("layers", ["all", "top-1", "bottom-1"])
@pytest.mark.parametrize("targets", [("q", "k", "v"), ("out",), ("fc1", "fc2", "v")])
def test_the_pattern_names_exactly_the_chosen_layers(
    clip_folder: Path, towers: Any, layers: str, targets: tuple[str, ...]
) -> None:
    clip = load_clip(str(clip_folder))
    pattern = target_pattern(Options(towers=towers, layers=layers, targets=targets), clip)
    found = {name for name, _ in clip.model.named_modules() if re.fullmatch(pattern, name)}
    numbers = {"all": [0, 1], "top-1": [1], "bottom-1": [0]}[layers]
    expected = {
        f"{tower}_model.encoder.layers.{number}.{TARGETS[target]}"
        for tower in (["vision", "text"] if towers == "both" else [towers])
        for number in numbers
        for target in targets
    }
    assert found == expected


@pytest.mark.parametrize("r", [1, 3])
def test_lora_ranks_need_no_blocks(r: int) -> None:
    assert FewShotClassifier(method="clip-lora", r=r, device="cpu").options.r == r
    with pytest.raises(ConfigError, match=f"n_blocks '2': expected a divisor of r = {r}"):
        FewShotClassifier(r=r, device="cpu")


@pytest.mark.parametrize("name", ["iterations", "batch_size"])
def test_fractions_are_no_whole_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} '2\.5': expected a whole number of at least 1"):
        Options(**{name: 2.5})  # type: ignore[arg-type]
