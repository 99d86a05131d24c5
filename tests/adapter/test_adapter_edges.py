"""Places where PEFT, transformers or torch call an adapter in an unusual way."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from blocklora.adapter import BlockLoraConfig, unfold_lora
from blocklora.core.errors import ConfigError

NAMES = ["default", "other", "__base__", "other"]


def t5() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=50, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)
    return T5ForConditionalGeneration(config).eval()


def gpt2(make_case: Any) -> nn.Module:
    model = make_case("gpt2").base()
    model.generation_config.bos_token_id = model.generation_config.eos_token_id = 49
    model.generation_config.pad_token_id = 0
    return model


@pytest.mark.parametrize("kind", ["decoder alone", "with an encoder"])
def test_beam_search_gives_every_sample_its_own_adapter(make_case: Any, kind: str) -> None:
    alone = kind == "decoder alone"
    config = BlockLoraConfig(
        target_modules=["c_attn"] if alone else ["q", "v"],
        task_type="CAUSAL_LM" if alone else "SEQ_2_SEQ_LM",
        lora_alpha=200,  # strong enough for the adapters to write different words
        init_weights=False,
    )
    model = get_peft_model(gpt2(make_case) if alone else t5(), config)
    model.add_adapter("other", config)
    model.eval()
    tokens = torch.randint(2, 48, (4, 6), generator=torch.Generator().manual_seed(5))
    options = {"attention_mask": torch.ones_like(tokens), "num_beams": 2, "do_sample": False}
    options |= {"max_new_tokens": 4, "min_new_tokens": 4, "early_stopping": True}
    mixed = model.generate(input_ids=tokens, adapter_names=NAMES, **options)
    with model.disable_adapter():
        want = {"__base__": model.generate(input_ids=tokens, **options)}
    for name in ("default", "other"):
        model.set_adapter(name)
        want[name] = model.generate(input_ids=tokens, **options)
    assert not torch.equal(want["default"], want["other"])
    for row, name in enumerate(NAMES):
        assert torch.equal(mixed[row], want[name][row])


def test_a_model_without_data_can_be_run_and_trained(make_case: Any) -> None:
    """The meta device: shapes and memory can be planned before anything is loaded."""
    case = make_case("mlp")
    with torch.device("meta"):
        model = get_peft_model(case.make(), case.config(lora_dropout=0.1, arm_dropout=True)).train()
    out = model(torch.empty(4, 10, device="meta"))
    assert (out.shape, out.is_meta) == ((4, 3), True)
    out.sum().backward()
    assert all(p.grad.is_meta for p in model.parameters() if p.requires_grad)


def test_exported_program_computes_the_same(make_case: Any) -> None:
    case = make_case("mlp")
    model = case.adapted().requires_grad_(False)
    program = torch.export.export(model, (), case.batch())
    assert torch.allclose(program.module()(**case.batch()), case.run(model), atol=1e-6)


def test_transformers_cannot_load_across_parametrizations(make_case: Any, tmp_path: Path) -> None:
    """Its load_adapter never asks PEFT to convert a file; PeftModel does, as another test shows."""
    case = make_case("bert")
    case.adapted(parametrization="folded").save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    config.parametrization = "blocks"
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        case.base().load_adapter(str(tmp_path), peft_config=config)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_lora_that_changed_the_frozen_weights_cannot_be_unfolded(
    mlp: Any, init: str, tmp_path: Path
) -> None:
    lora = get_peft_model(mlp.base(), LoraConfig(r=2, target_modules=["lin0"], init_lora_weights=init))
    with pytest.raises(ConfigError, match=f"init_lora_weights='{init}' has changed the frozen weights"):
        unfold_lora(lora, tmp_path, n_blocks=2)


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_a_lora_that_was_saved_relative_to_the_first_weights_can(mlp: Any, tmp_path: Path) -> None:
    lora = get_peft_model(
        mlp.base(), LoraConfig(r=2, target_modules=["lin0"], init_lora_weights="pissa")
    ).eval()
    lora.peft_config["default"].init_lora_weights = True
    lora.save_pretrained(tmp_path / "start")
    lora.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        lora.base_model.model.lin0.lora_B["default"].weight.add_(0.1)
    with tempfile.TemporaryDirectory() as folder:
        lora.save_pretrained(folder, path_initial_model_for_weight_conversion=str(tmp_path / "start"))
        blocks = unfold_lora(folder, tmp_path / "blocks", n_blocks=2)
    loaded = PeftModel.from_pretrained(mlp.base(), blocks)
    assert torch.allclose(mlp.run(loaded), mlp.run(lora), atol=1e-5)


def test_trained_biases_of_a_lora_are_carried_over(mlp: Any, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["lin0"], bias="lora_only", init_lora_weights=False)
    lora = get_peft_model(mlp.base(), config).eval()
    with torch.no_grad():
        lora.base_model.model.lin0.base_layer.bias.add_(1)
    loaded = PeftModel.from_pretrained(mlp.base(), unfold_lora(lora, tmp_path, n_blocks=2))
    assert loaded.peft_config["default"].bias == "blocklora_only"
    assert torch.allclose(mlp.run(loaded), mlp.run(lora), atol=1e-5)


def test_scaling_passes_over_layers_without_the_active_adapter(mlp: Any) -> None:
    model = mlp.adapted(target_modules=["lin0"])
    model.add_adapter("other", mlp.config(target_modules=["lin1"]))
    model.set_adapter("other")
    layers = [model.base_model.model.lin0, model.base_model.model.lin1]
    for layer in layers:
        layer.scale_layer(3.0)
    assert [dict(layer.scaling) for layer in layers] == [{"default": 1.5}, {"other": 4.5}]
    for layer in layers:
        layer.unscale_layer()
    assert [dict(layer.scaling) for layer in layers] == [{"default": 1.5}, {"other": 1.5}]


def test_an_adapter_cannot_be_deleted_while_merged(mlp: Any) -> None:
    model = mlp.adapted()
    want = mlp.run(model)
    model.merge_adapter()
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("default")
    model.unmerge_adapter()
    assert torch.allclose(mlp.run(model), want, atol=1e-5)
