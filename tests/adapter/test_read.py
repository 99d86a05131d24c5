"""An adapter's files go into a model whole, or are refused."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from blocklora.adapter import load_adapter
from blocklora.core.errors import RunError

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
FIRST = "base_model.model.lin0.blocklora_A"


@pytest.fixture
def saved(mlp: Any, tmp_path: Path) -> Path:
    """An adapter of the small network on disk."""
    mlp.adapted().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(folder: Path, change: Change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("kind", ["block-lora", "lora"])
def test_the_adapter_arrives_and_nothing_else_changes(mlp: Any, tmp_path: Path, kind: str) -> None:
    config = mlp.config() if kind == "block-lora" else peft.LoraConfig(r=2, target_modules=["lin0", "lin1"])
    model = peft.get_peft_model(mlp.base(), config).eval()
    model.save_pretrained(tmp_path)
    base = mlp.base()
    state, filters = torch.get_rng_state(), list(warnings.filters)
    loaded = load_adapter(base, tmp_path)
    assert torch.equal(mlp.run(loaded), mlp.run(model))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert warnings.filters == filters


UNFIT: dict[str, tuple[Change, str]] = {
    "renamed": (
        lambda w: {k.replace("lin0", "linear0"): v for k, v in w.items()},
        r"2 missing in the file \(\S*lin0.blocklora_A, \S*lin0.blocklora_B\); 2 without a place .*linear0",
    ),
    "all renamed": (
        lambda w: {k.replace("base_model.model.", ""): v for k, v in w.items()},
        r"4 missing in the file .*; 4 without a place in the model \(lin0.blocklora_A, ",
    ),
    "one missing": (
        lambda w: {k: v for k, v in w.items() if k != FIRST},
        rf"1 missing in the file \({re.escape(FIRST)}\)\.",
    ),
    "one more": (
        lambda w: w | {"base_model.model.head.blocklora_A": torch.ones(2, 12)},
        r"1 without a place in the model \(base_model.model.head.blocklora_A\)",
    ),
    "a frozen weight": (
        lambda w: w | {"base_model.model.head.weight": torch.ones(3, 12)},
        r"1 without a place in the model \(base_model.model.head.weight\)",
    ),
    "another shape": (lambda w: w | {FIRST: torch.ones(3, 10)}, r"size mismatch for \S*lin0.blocklora_A"),
    "not a number": (
        lambda w: w | {FIRST: w[FIRST] / 0},
        rf"NaN or infinite values: {re.escape(FIRST)}\.",
    ),
    "one twice": (
        lambda w: w | {FIRST.replace("lin0", "_orig_mod.lin0"): w[FIRST].clone()},
        "Tensors are there twice, with and without '_orig_mod.'",
    ),
    "nothing": (lambda w: {}, "4 missing in the file"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_tensors_that_do_not_fit_are_refused(mlp: Any, saved: Path, name: str) -> None:
    change, message = UNFIT[name]
    rewrite(saved, change)
    with pytest.raises(RunError, match=rf"adapter: this adapter cannot be used .*{message}.* fit it again"):
        load_adapter(mlp.base(), saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, "size mismatch"),
        ({"n_blocks": 1}, "size mismatch"),
        ({"target_modules": ["lin0"]}, "2 without a place in the model"),
        ({"target_modules": ["lin0", "lin1", "head"]}, "2 missing in the file"),
        ({"target_modules": ["q_proj"]}, r"Target modules .*q_proj.* not found"),
        ({"peft_type": "LORA"}, "without a place in the model"),
        ({"peft_type": "NOTHING"}, "NOTHING"),
    ],
)
@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
def test_a_configuration_that_does_not_fit_is_refused(
    mlp: Any, saved: Path, changes: dict[str, Any], message: str
) -> None:
    configure(saved, **changes)
    with pytest.raises(RunError, match=message):
        load_adapter(mlp.base(), saved)


def test_the_adapter_of_another_base_is_refused(mlp: Any, saved: Path) -> None:
    wider = mlp.base()
    wider.lin0 = nn.Linear(11, 20)
    with pytest.raises(RunError, match=r"size mismatch for \S*lin0"):
        load_adapter(wider, saved)


def test_files_that_are_missing_damaged_or_pickles(mlp: Any, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\S*adapter_config\.json is missing"):
        load_adapter(mlp.base(), tmp_path / "nowhere")
    weights = saved / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:50])
    with pytest.raises(RunError, match="is damaged"):
        load_adapter(mlp.base(), saved)
    weights.unlink()
    (saved / "adapter_model.bin").write_bytes(whole)
    with pytest.raises(RunError, match=r"adapter_model\.safetensors is missing"):
        load_adapter(mlp.base(), saved)


def test_the_image_tower_alone_takes_its_own_part(make_case: Callable[[str], Any], tmp_path: Path) -> None:
    case = make_case("clip")
    model = case.adapted()
    model.save_pretrained(tmp_path / "adapter")
    case.base().save_pretrained(tmp_path / "clip")
    alone = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "clip", projection_dim=12)
    with pytest.raises(RunError, match=r"12 without a place in the model \(base_model.model.text_model"):
        load_adapter(alone, tmp_path / "adapter")
    alone = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "clip", projection_dim=12)
    loaded = load_adapter(alone, tmp_path / "adapter", image_tower_only=True)
    pixels = case.batch()["pixel_values"]
    expected = model.get_base_model().get_image_features(pixels).pooler_output
    assert torch.equal(loaded(pixel_values=pixels).image_embeds, expected)


@pytest.mark.parametrize("part", ["the model", "one block"])
def test_the_adapter_of_a_compiled_model(make_case: Callable[[str], Any], tmp_path: Path, part: str) -> None:
    case = make_case("clip")
    base = case.base()
    if part == "the model":
        base = torch.compile(base, backend="eager")
    else:
        base.vision_model.encoder = torch.compile(base.vision_model.encoder, backend="eager")
    model = peft.get_peft_model(base, case.config()).eval()
    model.save_pretrained(tmp_path)
    assert any("_orig_mod." in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    plain = case.adapted()
    loaded = load_adapter(case.base(), tmp_path)
    plain.load_state_dict({k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()})
    assert torch.equal(case.run(loaded), case.run(plain))
