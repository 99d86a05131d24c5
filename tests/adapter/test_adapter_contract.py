"""What PEFT promises for LoRA on linear layers, asked of Block-LoRA on small models of several kinds."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from blocklora.adapter import BlockLoraConfig, BlockLoraLinear, BlockLoraModel
from blocklora.core.errors import ConfigError

VARIANTS = [
    {},
    {"parametrization": "folded"},
    {"arm_dropout": True, "lora_dropout": 0.2},
    {"use_rslora": True, "bias": "all"},
    {"bias": "blocklora_only"},
    {"r": 6, "n_blocks": 3, "init_weights": True},
    {"init_weights": "gaussian"},
]


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return not torch.allclose(a, b, atol=1e-5)


def test_adapter_changes_the_model_and_disabling_restores_it(any_case: Any) -> None:
    base = any_case.run(any_case.base())
    model = any_case.adapted()
    assert isinstance(model.base_model, BlockLoraModel)
    assert differs(any_case.run(model), base)
    with model.disable_adapter():
        assert torch.equal(any_case.run(model), base)
    assert torch.equal(any_case.run(model.unload()), base)


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_usual_starts_are_the_base_model(any_case: Any, init: Any) -> None:
    model = any_case.adapted(init_weights=init)
    assert torch.equal(any_case.run(model), any_case.run(any_case.base()))


@pytest.mark.parametrize("options", VARIANTS)
def test_saved_and_loaded(case: Any, options: dict[str, Any], tmp_path: Any) -> None:
    model = case.adapted(**options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "bias" in name:
                parameter.add_(0.1)
    want = case.run(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert all(".default" not in name for name in saved)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path)
    assert torch.equal(case.run(loaded), want)
    kept, given = (m.peft_config["default"].to_dict() for m in (loaded, model))
    assert kept == given | {"inference_mode": True, "auto_mapping": kept["auto_mapping"]}
    assert not any(p.requires_grad for name, p in loaded.named_parameters() if "blocklora" in name)
    again = PeftModel.from_pretrained(case.base(), tmp_path, is_trainable=True, low_cpu_mem_usage=True)
    assert torch.equal(case.run(again.eval()), want)


def test_only_the_adapter_is_trained_and_everything_else_stays(any_case: Any) -> None:
    model = any_case.adapted(lora_dropout=0.1, init_weights=True).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name in before if "blocklora_" in name}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        any_case.run(model).square().sum().backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("options", [{}, {"parametrization": "folded"}, {"use_rslora": True}])
def test_merged_model_computes_the_same(any_case: Any, safe: bool, options: dict[str, Any]) -> None:
    model = any_case.adapted(**options)
    want, base = any_case.run(model), any_case.run(any_case.base())
    model.merge_adapter(safe_merge=safe)
    assert torch.allclose(any_case.run(model), want, atol=1e-4)
    model.unmerge_adapter()
    assert torch.allclose(any_case.run(model), want, atol=1e-4)
    model.merge_adapter(safe_merge=safe)
    with model.disable_adapter():  # unmerges
        assert torch.allclose(any_case.run(model), base, atol=1e-4)
    plain = model.merge_and_unload(safe_merge=safe)
    assert not any(isinstance(module, BlockLoraLinear) for module in plain.modules())
    assert torch.allclose(any_case.run(plain), want, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_bases(case: Any, dtype: torch.dtype, autocast: bool) -> None:
    base = case.base().to(dtype)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.batch().items()}
    model = get_peft_model(base, case.config(), autocast_adapter_dtype=autocast).eval()
    kinds = {p.dtype for name, p in model.named_parameters() if "blocklora" in name}
    assert kinds == {torch.float32 if autocast else dtype}
    out = model(**batch)
    out = out if isinstance(out, torch.Tensor) else out[0]
    assert out.dtype == dtype
    out.float().sum().backward()
    before = copy.deepcopy(model)
    model.merge_adapter(safe_merge=True)
    merged = model(**batch)
    merged = merged if isinstance(merged, torch.Tensor) else merged[0]
    assert torch.allclose(merged.float(), out.float(), atol=0.2, rtol=0.1)
    delta = before.base_model.model.get_submodule(model.targeted_module_names[0]).get_delta_weight("default")
    assert delta.dtype == (torch.float32 if autocast else dtype)


def test_merging_twice_and_unmerging_nothing_warn(mlp: Any) -> None:
    model = mlp.adapted()
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()
    model.merge_adapter()
    with pytest.warns(UserWarning, match="All adapters are already merged"):
        model.merge_adapter()


def test_several_adapters(case: Any) -> None:
    model = case.adapted()
    one = case.run(model)
    torch.manual_seed(9)
    model.add_adapter("other", case.config(r=6, n_blocks=3, lora_alpha=3, parametrization="folded"))
    assert torch.equal(case.run(model), one)
    model.set_adapter("other")
    two = case.run(model)
    assert differs(two, one)
    model.base_model.set_adapter(["default", "other"])
    both = case.run(model)
    assert differs(both, one)
    model.merge_adapter()
    assert torch.allclose(case.run(model), both, atol=1e-4)
    model.unmerge_adapter()
    trained = {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"default", "other"}
    model.set_adapter("other")
    model.delete_adapter("default")
    assert torch.allclose(case.run(model), two, atol=1e-5)
    assert all("default" not in name for name, _ in model.named_parameters())


def test_deleting_the_active_adapter_activates_another(mlp: Any) -> None:
    model = mlp.adapted()
    model.add_adapter("other", mlp.config())
    with pytest.warns(UserWarning, match="Setting active adapter to other"):
        model.delete_adapter("default")
    assert model.active_adapters == ["other"]


def test_adapters_on_different_layers_are_merged_where_they_are(mlp: Any) -> None:
    model = mlp.adapted(target_modules=["lin0"])
    model.add_adapter("other", mlp.config(target_modules=["lin1"]))
    model.base_model.set_adapter(["default", "other"])
    both = mlp.run(model)
    model.merge_adapter()
    assert torch.allclose(mlp.run(model), both, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(mlp.run(model), both, atol=1e-5)
    assert not model.base_model.model.lin0.scaling.keys() & {"other"}
    model.base_model.model.lin0.set_scale("other", 3.0)  # not here: nothing to do
    assert torch.equal(mlp.run(model), both) or torch.allclose(mlp.run(model), both, atol=1e-5)


def test_scales_can_be_changed_and_restored(mlp: Any) -> None:
    model = mlp.adapted(use_rslora=True, target_modules=["lin0"])
    layer = model.base_model.model.lin0
    configured = layer.scaling["default"]
    layer.set_scale("default", 2.0)
    assert layer.scaling["default"] == 2 * configured
    layer.scale_layer(3.0)
    assert layer.scaling["default"] == pytest.approx(6 * configured)
    layer.unscale_layer(3.0)
    assert layer.scaling["default"] == pytest.approx(2 * configured)
    layer.unscale_layer()
    assert layer.scaling["default"] == configured
    layer.set_adapter([])
    layer.scale_layer(5.0)
    layer.unscale_layer()
    assert layer.scaling["default"] == configured


@pytest.mark.parametrize("how", ["cat", "linear"])
def test_weighted_adapters_equal_those_of_folded_lora(case: Any, how: str, tmp_path: Any) -> None:
    from blocklora.adapter import fold_to_lora

    model = case.adapted(rank_pattern={case.targets[0]: 2})
    torch.manual_seed(7)
    model.add_adapter(
        "other", case.config(lora_alpha=3, rank_pattern={case.targets[0]: 2}, parametrization="folded")
    )
    stock: Any = None
    for name in ("default", "other"):
        fold_to_lora(model, tmp_path / name, adapter_name=name)
        if stock is None:
            stock = PeftModel.from_pretrained(case.base(), tmp_path / name)
        else:
            stock.load_adapter(tmp_path / name, name)
    for tuner in (model, stock):
        tuner.base_model.add_weighted_adapter(["default", "other"], [0.7, -0.4], "mix", combination_type=how)
        tuner.set_adapter("mix")
    assert torch.allclose(case.run(model), case.run(stock), atol=1e-5)
    if how == "cat":
        layers = [m for m in model.modules() if isinstance(m, BlockLoraLinear)]
        for layer in layers:
            want = 0.7 * layer.get_delta_weight("default") - 0.4 * layer.get_delta_weight("other")
            assert torch.allclose(layer.get_delta_weight("mix"), want, atol=1e-6)


def test_weighted_adapters_are_frozen_and_not_made_twice(mlp: Any) -> None:
    model = mlp.adapted(target_modules="lin0")
    model.add_adapter("other", mlp.config(target_modules="lin1"))
    model.base_model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mix")
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.endswith(".mix"))
    model.base_model.set_adapter(["default", "other"])
    both = mlp.run(model)
    model.set_adapter("mix")
    assert torch.allclose(mlp.run(model), both, atol=1e-5)
    model.base_model.add_weighted_adapter(["default"], [5.0], "mix")
    assert torch.allclose(mlp.run(model), both, atol=1e-5)


def test_weighted_adapters_that_cannot_be(mlp: Any) -> None:
    model = mlp.adapted()
    add = model.base_model.add_weighted_adapter
    with pytest.raises(ConfigError, match="Adapter nobody does not exist"):
        add(["nobody"], [1.0], "mix")
    with pytest.raises(ConfigError, match="one weight for each adapter, got 1 and 2"):
        add(["default"], [1.0, 2.0], "mix")
    with pytest.raises(ConfigError, match="Invalid combination_type: svd"):
        add(["default"], [1.0], "mix", combination_type="svd")
    model.add_adapter("wide", mlp.config(r=8))
    with pytest.raises(ConfigError, match=r"same rank .* got \[2, 4\]; use cat"):
        add(["default", "wide"], [1.0, 1.0], "mix", combination_type="linear")
    model.add_adapter("named", mlp.config(target_modules="lin0"))
    with pytest.raises(ConfigError, match="same target modules type"):
        add(["default", "named"], [1.0, 1.0], "mix")
    saving = mlp.adapted(modules_to_save=["head"])
    saving.add_adapter("other", mlp.config(modules_to_save=["head"]))
    with pytest.raises(ConfigError, match="modules_to_save, but found 1"):
        saving.base_model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mix")


def test_each_sample_its_own_adapter(case: Any) -> None:
    saved = {"modules_to_save": ["head"]} if case.name == "mlp" else {}
    model = case.adapted(**saved)
    torch.manual_seed(7)
    model.add_adapter("other", case.config(parametrization="folded", **saved))
    alone = {"__base__": case.run(case.base())}
    for name in ("default", "other"):
        model.set_adapter(name)
        alone[name] = case.run(model)
    if case.name == "clip":  # the image's adapter meets the text's: only the diagonal is one adapter's alone
        alone = {name: out.diagonal() for name, out in alone.items()}
    names = ["default", "__base__", "other", "default"]
    mixed = case.run(model, adapter_names=names)
    mixed = mixed.diagonal() if case.name == "clip" else mixed
    for row, name in enumerate(names):
        assert torch.allclose(mixed[row], alone[name][row], atol=1e-5)
    with model.disable_adapter():
        off = case.run(model, adapter_names=names)
        assert torch.allclose(off.diagonal() if case.name == "clip" else off, alone["__base__"], atol=1e-6)


def test_each_sample_its_own_adapter_when_it_cannot_be(mlp: Any) -> None:
    model = mlp.adapted()
    with pytest.raises(ValueError, match=r"non-existing adapter\(s\): nobody"):
        mlp.run(model, adapter_names=["default", "nobody", "default", "__base__"])
    with pytest.raises(ConfigError, match=r"Length of `adapter_names` should be the same .* got 1 and 4"):
        mlp.run(model, adapter_names=["default"])
    with pytest.raises(ValueError, match="model is in training mode"):
        mlp.run(model.train(), adapter_names=["default"] * 4)
    model.eval().merge_adapter()
    with pytest.raises(ConfigError, match="when there are merged adapters"):
        mlp.run(model, adapter_names=["default"] * 4)
    model.unmerge_adapter()
    assert torch.allclose(mlp.run(model, adapter_names=["default"] * 4), mlp.run(model))  # hooks are gone


def test_targets_known_for_the_architecture(make_case: Any) -> None:
    clip = make_case("clip")
    model = clip.adapted(target_modules=None)
    assert {name.rpartition(".")[2] for name in model.targeted_module_names} == {"q_proj", "k_proj", "v_proj"}


def test_targets_registered_with_peft_later(mlp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "mine", ["lin1"])
    base = mlp.base()
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(base, mlp.config(target_modules=None))
    base.config = {"model_type": "mine"}
    assert get_peft_model(base, mlp.config(target_modules=None)).targeted_module_names == ["lin1"]


def test_conv1d_lies_the_other_way(make_case: Any, tmp_path: Any) -> None:
    gpt2 = make_case("gpt2")
    model = gpt2.adapted()
    layer = model.base_model.model.transformer.h[0].attn.c_attn
    assert layer.blocklora_A["default"].shape == (2, 16)
    assert layer.blocklora_B["default"].shape == (2, 48, 2)
    assert layer.get_delta_weight("default").shape == layer.base_layer.weight.shape == (16, 48)
    assert model.peft_config["default"].fan_in_fan_out is True


def test_fan_in_fan_out_is_taken_back_on_linear(mlp: Any) -> None:
    with pytest.warns(UserWarning, match="Setting fan_in_fan_out to False"):
        model = mlp.adapted(fan_in_fan_out=True)
    assert model.peft_config["default"].fan_in_fan_out is False


def test_second_wrapping_warns(mlp: Any) -> None:
    model = mlp.adapted()
    with (
        pytest.warns(UserWarning, match="modify a model with PEFT for a second time"),
        pytest.warns(UserWarning, match="Already found a `peft_config`"),
    ):
        get_peft_model(model.base_model.model, mlp.config())


def test_only_one_adapter_may_train_biases(mlp: Any) -> None:
    model = mlp.adapted(bias="all")
    with pytest.raises(ValueError, match="supports only 1 adapter with bias"):
        model.add_adapter("other", mlp.config(bias="all"))


@pytest.mark.parametrize("way", ["blocks to folded", "folded to blocks"])
def test_files_load_across_parametrizations(case: Any, way: str, tmp_path: Any) -> None:
    source, goal = way.split(" to ")
    model = case.adapted(parametrization=source, r=6, n_blocks=3)
    model.save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert config.parametrization == source
    config.parametrization = goal
    other = PeftModel.from_pretrained(case.base(), tmp_path, config=config)
    assert torch.allclose(case.run(other), case.run(model), atol=1e-5)
    arms = next(p for name, p in other.named_parameters() if "blocklora_B" in name)
    assert arms.shape[0] == (3 if goal == "blocks" else 1)


def test_a_file_of_another_number_of_arms_is_refused(mlp: Any, tmp_path: Any) -> None:
    mlp.adapted(r=4, n_blocks=4).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(mlp.base(), tmp_path, config=mlp.config(r=2, n_blocks=2))


@pytest.mark.parametrize(
    ("model", "target", "text"),
    [
        (
            nn.Sequential(nn.Embedding(5, 4)),
            "0",
            r"'0' \(Embedding\) is not supported. Block-LoRA adapts torch.nn.Linear",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), "0", r"'0' \(Conv2d\) is not supported"),
        (nn.MultiheadAttention(4, 2), "out_proj", "out_proj of torch.nn.MultiheadAttention"),
    ],
)
def test_layers_that_cannot_be_adapted_are_named(model: nn.Module, target: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        get_peft_model(model, BlockLoraConfig(target_modules=[target]))


def test_parameters_cannot_be_targeted() -> None:
    with pytest.raises(TypeError, match="target_parameters"):
        BlockLoraConfig(target_parameters=["lin0.weight"])


def test_a_lora_lies_under_a_block_lora(mlp: Any) -> None:
    inner = get_peft_model(
        mlp.base(), peft.LoraConfig(target_modules=["lin0"], init_lora_weights=False)
    ).eval()
    want = mlp.run(inner)
    with pytest.warns(UserWarning, match="second time"), pytest.warns(UserWarning, match="Already found"):
        outer = get_peft_model(
            inner.base_model.model, mlp.config(target_modules=["lin0"], init_weights=True)
        ).eval()
    assert torch.equal(mlp.run(outer), want)


def test_copies_and_names(mlp: Any) -> None:
    model = mlp.adapted()
    assert torch.equal(mlp.run(copy.deepcopy(model)), mlp.run(model))
    assert "blocklora.BlockLoraLinear(" in repr(model)
    assert model.base_model.supports_lora_conversion()
    assert model.get_layer_status()[0].available_adapters == ["default"]
    trained, total = model.get_nb_trainable_parameters()
    assert trained == 2 * 10 + 4 * 20 + 2 * 20 + 4 * 12
    assert total > trained


def test_peft_may_switch_casting(mlp: Any) -> None:
    model = mlp.adapted()
    want = mlp.run(model)
    with peft.helpers.disable_input_dtype_casting(model):
        assert torch.equal(mlp.run(model), want)
