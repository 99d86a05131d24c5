"""Features whose working depends on the model: each on an MLP, on CLIP, and on GPT-2 with its Conv1D layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from blocklora.adapter import BlockLoraLinear, fold_to_lora, param_groups
from blocklora.core.errors import ConfigError

# Of each model: a module to train whole, an expression for one adapted layer, and an ending that some of them share.
SAVED = {"mlp": "head", "clip": "visual_projection", "gpt2": "ln_f"}
ONE_LAYER = {
    "mlp": "lin[0]",
    "clip": r"vision_model\.encoder\.layers\.1\.self_attn\.q_proj",
    "gpt2": r".*\.h\.1\.attn\.c_attn",
}
SOME = {"mlp": "lin1", "clip": "v_proj", "gpt2": "c_attn"}


class Deep(nn.Module):
    """An MLP whose layers have numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(4, 4)}) for _ in range(3))


def adapted_layers(model: nn.Module) -> dict[str, BlockLoraLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, BlockLoraLinear)}


def factors(model: nn.Module) -> list[torch.Tensor]:
    return [p for name, p in model.named_parameters() if "blocklora" in name]


def test_patterns_reach_their_layers(case: Any, tmp_path: Path) -> None:
    one = case.targets[0]
    model = case.adapted(
        r=4,
        lora_alpha=4,
        rank_pattern={one: 6},
        blocks_pattern={one: 3, case.targets[1]: 4},
        alpha_pattern={case.targets[1]: 20},
    )
    for name, layer in adapted_layers(model).items():
        shape = layer.blocklora_A["default"].shape, layer.blocklora_B["default"].shape
        d_in, d_out = layer.in_features, layer.out_features
        if name.endswith(one):
            assert shape == ((2, d_in), (3, d_out, 2))
            assert layer.scaling["default"] == 4 / 6
        elif name.endswith(case.targets[1]):
            assert shape == ((1, d_in), (4, d_out, 1))
            assert layer.scaling["default"] == 20 / 4
    want = case.run(model)
    model.save_pretrained(tmp_path / "blocks")
    assert torch.equal(case.run(PeftModel.from_pretrained(case.base(), tmp_path / "blocks")), want)
    stock = PeftModel.from_pretrained(case.base(), fold_to_lora(model, tmp_path / "lora"))
    assert torch.equal(case.run(stock), want)


def test_targets_by_list_by_expression_and_by_word(case: Any) -> None:
    names = [name for name, m in case.base().named_modules() if isinstance(m, nn.Linear | Conv1D)]

    def chosen(**options: Any) -> set[str]:
        return set(case.adapted(**options).targeted_module_names)

    listed = {name for name in names if name.rpartition(".")[2] in case.targets}
    assert chosen() == listed
    assert len(chosen(target_modules=ONE_LAYER[case.name])) == 1
    kept = ("lm_head",)  # PEFT leaves a language model's output layer alone
    everything = {name for name in names if name not in kept}
    assert chosen(target_modules="all-linear") == everything
    left_out = SOME[case.name]
    assert chosen(exclude_modules=[left_out]) == {name for name in listed if not name.endswith(left_out)}
    assert chosen(exclude_modules=f".*{left_out}") == {name for name in listed if not name.endswith(left_out)}


def test_layers_by_number(case: Any) -> None:
    if case.name == "mlp":
        config = case.config(target_modules=["up"], layers_to_transform=[0, 2], layers_pattern="layers")
        assert get_peft_model(Deep(), config).targeted_module_names == ["layers.0.up", "layers.2.up"]
        return
    where = {"clip": "layers", "gpt2": "h"}[case.name]
    for pattern in (None, where, [where]):
        model = case.adapted(layers_to_transform=1, layers_pattern=pattern)
        assert {f".{where}.1." in name for name in model.targeted_module_names} == {True}


def test_modules_to_save_are_trained_and_saved(case: Any, tmp_path: Path) -> None:
    model = case.adapted(modules_to_save=[SAVED[case.name]])
    trained = [p for name, p in model.named_parameters() if "modules_to_save.default" in name]
    assert trained
    assert all(p.requires_grad for p in trained)
    with torch.no_grad():
        for p in trained:
            p.add_(torch.linspace(0.1, 1, p.numel()).view_as(p))
    want = case.run(model)
    with model.disable_adapter():
        assert torch.equal(case.run(model), case.run(case.base()))
    model.save_pretrained(tmp_path / "blocks")
    for path in (tmp_path / "blocks", fold_to_lora(model, tmp_path / "lora")):
        assert torch.equal(case.run(PeftModel.from_pretrained(case.base(), path)), want)
    assert torch.allclose(case.run(model.merge_and_unload()), want, atol=1e-4)


@pytest.mark.parametrize("bias", ["all", "blocklora_only"])
def test_trained_biases(case: Any, bias: str) -> None:
    model = case.adapted(bias=bias)
    trained = {n for n, p in model.named_parameters() if p.requires_grad and "blocklora" not in n}
    inside = {n for n, _ in model.named_parameters() if n.endswith("base_layer.bias")}
    every = {n for n, _ in model.named_parameters() if n.endswith("bias")}
    assert trained == (every if bias == "all" else inside)
    with pytest.warns(UserWarning, match="does not produce the same output"), model.disable_adapter():
        pass


def test_safe_merge_refuses_values_that_are_not_finite(case: Any) -> None:
    model = case.adapted()
    layer = next(iter(adapted_layers(model).values()))
    layer.blocklora_A["default"].data[0, 0] = float("nan")
    weight = layer.base_layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights. The adapter default"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight)


def test_quantised_layers_are_refused(case: Any) -> None:
    base = case.base()
    name = case.adapted().targeted_module_names[0]
    layer = base.get_submodule(name)
    layer.weight = nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        ConfigError, match=rf"'{name}' .*int8\) is quantised.*It adapts torch.nn.Linear.*fold_to_lora"
    ):
        get_peft_model(base, case.config())


# torch's reentrant kind needs an input with gradients; CLIP has two, and its images cannot have them.
CHECKPOINTED = [(name, kind) for name in ("mlp", "clip", "gpt2", "bert") for kind in (False, True)]
CHECKPOINTED.remove(("clip", True))


@pytest.mark.parametrize(("name", "reentrant"), CHECKPOINTED)
def test_gradient_checkpointing_draws_the_same_masks(make_case: Any, name: str, reentrant: bool) -> None:
    case = make_case(name)
    grads = []
    for checkpointing in (False, True):
        model = case.adapted(lora_dropout=0.4, arm_dropout=True).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        torch.manual_seed(3)
        if checkpointing and name == "mlp":
            out = checkpoint(model, case.batch()["x"].requires_grad_(), use_reentrant=reentrant)
        else:
            if checkpointing:
                if name != "clip":
                    model.enable_input_require_grads()
                model.base_model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
            out = case.run(model)
        out.square().sum().backward()
        grads.append([p.grad for p in factors(model)])
    assert all(g.abs().max() > 0 for g in grads[0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_the_twin_follows_the_arms(case: Any) -> None:
    """As test_adapter_twin.py shows for 200 steps on an MLP, in few steps on whole models."""
    ends = []
    for parametrization in ("blocks", "folded"):
        options = {"parametrization": parametrization, "lora_dropout": 0.25, "r": 6, "n_blocks": 3}
        model = case.adapted(**options, init_weights=True).double().train()
        optimizer = torch.optim.AdamW(param_groups(model, 0.01, 0.3))
        batch = {k: v.double() if v.is_floating_point() else v for k, v in case.batch().items()}
        torch.manual_seed(3)
        for _ in range(12):
            out = model(**batch)
            out = out if isinstance(out, torch.Tensor) else out[0]
            optimizer.zero_grad()
            out.square().mean().backward()
            optimizer.step()
        layers = adapted_layers(model).values()
        ends.append([layer.get_delta_weight("default").detach() for layer in layers])
    assert all(delta.abs().max() > 0 for delta in ends[0])
    for arms, twin in zip(*ends, strict=True):
        assert (arms - twin).abs().max() / arms.abs().max() < 1e-11


@pytest.mark.parametrize("name", ["clip", "gpt2", "bert"])
def test_transformers_own_adapters(make_case: Any, name: str, tmp_path: Path) -> None:
    case = make_case(name)
    case.adapted().save_pretrained(tmp_path)
    want = case.run(case.adapted())
    model = case.base()
    model.load_adapter(str(tmp_path))
    assert torch.allclose(case.run(model), want, atol=1e-6)
    fresh = case.base()
    torch.manual_seed(1)
    fresh.add_adapter(case.config())
    assert torch.allclose(case.run(fresh), want, atol=1e-6)
    fresh.save_pretrained(tmp_path / "own")
    again = case.base()
    again.load_adapter(str(tmp_path / "own"))
    assert torch.allclose(case.run(again), want, atol=1e-6)
    again.disable_adapters()
    assert torch.equal(case.run(again), case.run(case.base()))


def test_hotswap_is_refused_by_peft_for_blocks_and_works_for_the_fold(case: Any, tmp_path: Path) -> None:
    one, two = case.adapted(seed=1), case.adapted(seed=2)
    two.save_pretrained(tmp_path / "blocks")
    before = case.run(one)
    with pytest.raises(ValueError, match="Hotswapping only supports"):
        hotswap_adapter(one, str(tmp_path / "blocks"), "default", torch_device="cpu")
    assert torch.equal(case.run(one), before)
    stock = PeftModel.from_pretrained(case.base(), fold_to_lora(one, tmp_path / "one"))
    hotswap_adapter(stock, str(fold_to_lora(two, tmp_path / "two")), "default", torch_device="cpu")
    assert torch.allclose(case.run(stock), case.run(two), atol=1e-6)


@pytest.mark.slow
def test_torch_compile(case: Any) -> None:
    model = case.adapted()
    want = case.run(model)
    assert torch.allclose(case.run(torch.compile(model, backend="aot_eager")), want, atol=1e-5)
    training = case.adapted(lora_dropout=0.3).train()
    case.run(torch.compile(training, backend="aot_eager")).sum().backward()
    assert all(p.grad is not None for p in training.parameters() if p.requires_grad)
