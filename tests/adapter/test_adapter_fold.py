"""Folding to plain LoRA and back, and what refuses to be folded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from blocklora.adapter import BlockLoraConfig, fold_to_lora, unfold_lora
from blocklora.core.errors import ConfigError

OPTIONS = [
    {},
    {"parametrization": "folded"},
    {"use_rslora": True, "r": 6, "n_blocks": 3},
    {"arm_dropout": True, "lora_dropout": 0.1, "bias": "all"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_folded_adapter_computes_exactly_the_same(
    any_case: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = any_case.adapted(**options)
    out = fold_to_lora(model, tmp_path / "lora")
    stock = PeftModel.from_pretrained(any_case.base(), out)
    assert type(stock.base_model) is peft.LoraModel
    assert torch.equal(any_case.run(stock), any_case.run(model))


def test_patterns_biases_and_saved_modules_are_carried_over(mlp: Any, tmp_path: Path) -> None:
    model = mlp.adapted(
        r=4,
        rank_pattern={"lin0": 6},
        blocks_pattern={"lin0": 3, "lin1": 1},
        alpha_pattern={"lin1": 5},
        use_rslora=True,
        bias="blocklora_only",
        modules_to_save=["head"],
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "blocklora" not in name:
                parameter.add_(0.1)
    from_model = fold_to_lora(model, tmp_path / "a")
    model.save_pretrained(tmp_path / "blocks")
    from_path = fold_to_lora(str(tmp_path / "blocks"), tmp_path / "b")
    want = mlp.run(model)
    for path in (from_model, from_path):
        assert torch.equal(mlp.run(PeftModel.from_pretrained(mlp.base(), path)), want)
    config = LoraConfig.from_pretrained(from_model)
    assert (config.bias, config.r, config.rank_pattern["^lin1"]) == ("lora_only", 2, 4)


def test_the_fold_is_the_sum_of_the_arms_with_the_same_scale(mlp: Any, tmp_path: Path) -> None:
    model = mlp.adapted(r=6, n_blocks=3, lora_alpha=9)
    state = load_file(fold_to_lora(model, tmp_path) / "adapter_model.safetensors")
    layer = model.base_model.model.lin0
    assert torch.equal(state["base_model.model.lin0.lora_A.weight"], layer.blocklora_A["default"])
    assert torch.equal(state["base_model.model.lin0.lora_B.weight"], layer.blocklora_B["default"].sum(0))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 3.0, "LORA")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_process_without_us_loads_the_fold(mlp: Any, tmp_path: Path) -> None:
    """Stock PEFT in a fresh interpreter that cannot import blocklora."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    torch.save(base.state_dict(), tmp_path / "base.pt")
    config = BlockLoraConfig(r=6, n_blocks=3, target_modules=["0", "2"], init_weights=False)
    model = get_peft_model(base, config).eval()
    x = mlp.batch()["x"]
    fold_to_lora(model, tmp_path / "lora")
    script = f"""
import sys, torch
from torch import nn
from peft import PeftModel
base = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
base.load_state_dict(torch.load({str(tmp_path / "base.pt")!r}))
model = PeftModel.from_pretrained(base, {str(tmp_path / "lora")!r})
assert "blocklora" not in sys.modules
x = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
torch.save(model(x).detach(), {str(tmp_path / "out.pt")!r})
"""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script], check=True, env=env, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "out.pt"), model(x).detach())


def test_a_fresh_process_that_imports_us_loads_the_blocks(mlp: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    torch.save(base.state_dict(), tmp_path / "base.pt")
    model = get_peft_model(base, BlockLoraConfig(target_modules=["0"], init_weights=False)).eval()
    model.save_pretrained(tmp_path / "blocks")
    script = f"""
import torch
import blocklora.adapter
from torch import nn
from peft import PeftModel
base = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
base.load_state_dict(torch.load({str(tmp_path / "base.pt")!r}))
model = PeftModel.from_pretrained(base, {str(tmp_path / "blocks")!r})
x = torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
torch.save(model(x).detach(), {str(tmp_path / "out.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "out.pt"), model(mlp.batch()["x"]).detach())


@pytest.mark.parametrize("rslora", [False, True])
def test_unfolded_lora_is_n_equal_arms(any_case: Any, rslora: bool, tmp_path: Path) -> None:
    torch.manual_seed(4)
    pattern = {any_case.targets[0]: 3}
    config = LoraConfig(
        r=2,
        lora_alpha=5,
        use_rslora=rslora,
        target_modules=any_case.targets,
        init_lora_weights=False,
        rank_pattern=pattern if any_case.name != "vit" else {},
        alpha_pattern=pattern if any_case.name != "vit" else {},
        fan_in_fan_out=any_case.name == "gpt2",
    )
    lora = get_peft_model(any_case.base(), config).eval()
    want = any_case.run(lora)
    out = unfold_lora(lora, tmp_path / "blocks", n_blocks=3)
    block = PeftModel.from_pretrained(any_case.base(), out)
    assert torch.allclose(any_case.run(block), want, atol=1e-5)
    arms = [p for name, p in block.named_parameters() if "blocklora_B" in name]
    assert all(torch.equal(B[0], B[i]) for B in arms for i in range(3))
    assert torch.allclose(
        any_case.run(PeftModel.from_pretrained(any_case.base(), fold_to_lora(out, tmp_path / "again"))),
        want,
        atol=1e-5,
    )


def test_what_cannot_be_folded(mlp: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapter named 'other'; adapters found: default"):
        fold_to_lora(mlp.adapted(), tmp_path, adapter_name="other")
    with pytest.raises(ConfigError, match="adapters found: none"):
        fold_to_lora(mlp.base(), tmp_path)
    with pytest.raises(ConfigError, match=r"adapter_config.json is missing; pass a folder"):
        fold_to_lora(tmp_path / "nowhere", tmp_path)
    lora = get_peft_model(mlp.base(), LoraConfig(target_modules=["lin0"]))
    with pytest.raises(ConfigError, match="LORA and not a Block-LoRA"):
        fold_to_lora(lora, tmp_path)


def test_what_cannot_be_unfolded(mlp: Any, make_case: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BLOCKLORA and not a LoRA"):
        unfold_lora(mlp.adapted(), tmp_path, n_blocks=2)
    dora = get_peft_model(mlp.base(), LoraConfig(target_modules=["lin0"], use_dora=True))
    with pytest.raises(ConfigError, match="uses use_dora"):
        unfold_lora(dora, tmp_path, n_blocks=2)
    words = get_peft_model(make_case("bert").base(), LoraConfig(target_modules=["word_embeddings"]))
    with pytest.raises(ConfigError, match="not linear"):
        unfold_lora(words, tmp_path, n_blocks=2)
    with pytest.raises(ConfigError, match="n_blocks"):
        unfold_lora(get_peft_model(mlp.base(), LoraConfig(target_modules=["lin0"])), tmp_path, n_blocks=0)


def test_transformers_own_adapter_folds(make_case: Any, tmp_path: Path) -> None:
    case = make_case("bert")
    model = case.base()
    model.add_adapter(case.config())
    stock = PeftModel.from_pretrained(case.base(), fold_to_lora(model, tmp_path))
    assert torch.allclose(case.run(stock), case.run(model), atol=1e-6)


def compiled(module: nn.Module) -> nn.Module:
    """The module under torch.compile's name, without the time that compiling takes."""
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda m: nn.DataParallel(compiled(m))])
def test_a_wrapped_model_folds_as_the_model_itself(make_case: Any, wrap: Any, tmp_path: Path) -> None:
    case = make_case("clip")
    model = case.adapted(rank_pattern={"vision_model.encoder.layers.0.self_attn.q_proj": 6})
    fold_to_lora(wrap(model), tmp_path)
    assert torch.equal(case.run(PeftModel.from_pretrained(case.base(), tmp_path)), case.run(model))


@pytest.mark.parametrize("targets", [["q_proj", "k_proj"], "all-linear", r".*vision_model.*\.q_proj"])
@pytest.mark.parametrize("from_folder", [False, True])
def test_an_adapter_in_a_compiled_model_folds(
    make_case: Any, targets: Any, from_folder: bool, tmp_path: Path
) -> None:
    case = make_case("clip")
    options = {
        "target_modules": targets,
        "rank_pattern": {"vision_model.encoder.layers.0.self_attn.q_proj": 6},
    }
    torch.manual_seed(1)
    model = get_peft_model(compiled(case.base()), case.config(**options)).eval()
    model.save_pretrained(tmp_path / "blocks")
    plain = get_peft_model(case.base(), case.config(**options)).eval()
    plain.load_state_dict(
        {name.replace("_orig_mod.", ""): value for name, value in model.state_dict().items()}
    )
    folded = fold_to_lora(tmp_path / "blocks" if from_folder else model, tmp_path / "lora")
    assert not any("_orig_mod" in path.read_text("latin-1") for path in folded.iterdir())
    want = case.run(plain)
    assert torch.equal(case.run(PeftModel.from_pretrained(case.base(), folded)), want)
    blocks = unfold_lora(folded, tmp_path / "again", n_blocks=2)
    assert torch.allclose(case.run(PeftModel.from_pretrained(case.base(), blocks)), want, atol=1e-5)


def test_a_lora_in_a_compiled_model_unfolds(make_case: Any, tmp_path: Path) -> None:
    case = make_case("clip")
    config = LoraConfig(r=2, target_modules=case.targets, init_lora_weights=False)
    torch.manual_seed(1)
    plain = get_peft_model(case.base(), config).eval()
    torch.manual_seed(1)
    lora = get_peft_model(compiled(case.base()), config).eval()
    block = PeftModel.from_pretrained(case.base(), unfold_lora(lora, tmp_path, n_blocks=2))
    assert torch.allclose(case.run(block), case.run(plain), atol=1e-5)
