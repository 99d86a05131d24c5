"""Which adapter is there, on, trained and saved: the bookkeeping that PEFT's own suite asks of every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import nn


def trained(model: nn.Module) -> set[str]:
    """The adapters whose factors require gradients."""
    return {n.rpartition(".")[2] for n, p in model.named_parameters() if "blocklora" in n and p.requires_grad}


def test_injected_without_a_wrapper_saved_and_put_back(case: Any) -> None:
    model = inject_adapter_in_model(case.config(), case.base())
    want = case.run(model)
    state = get_peft_model_state_dict(model)
    assert state
    assert all(".default" not in name for name in state)
    base = case.base()
    torch.manual_seed(2)
    again = inject_adapter_in_model(case.config(), base)
    assert not torch.allclose(case.run(again), want, atol=1e-5)
    result = set_peft_model_state_dict(again, state)
    assert not result.unexpected_keys
    assert torch.equal(case.run(again), want)


def test_names_that_contain_each_other_do_not_mix(case: Any, tmp_path: Path) -> None:
    names = ("default", "default2", "def")
    model = case.adapted()
    for seed, name in enumerate(names[1:], 5):
        torch.manual_seed(seed)
        model.add_adapter(name, case.config())
    model.save_pretrained(tmp_path)
    for name in names:
        model.set_adapter(name)
        folder = tmp_path if name == "default" else tmp_path / name
        assert torch.equal(case.run(PeftModel.from_pretrained(case.base(), folder)), case.run(model))


def test_only_chosen_adapters_are_saved(case: Any, tmp_path: Path) -> None:
    model = case.adapted()
    model.add_adapter("other", case.config())
    model.add_adapter("third", case.config())
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "other"]
    with pytest.raises(ValueError, match="selected_adapters"):
        model.save_pretrained(tmp_path, selected_adapters=["nobody"])


def test_only_active_adapters_are_trained(case: Any) -> None:
    model = case.adapted()
    model.add_adapter("other", case.config())
    assert trained(model) == {"default"}
    model.set_adapter("other")
    assert trained(model) == {"other"}
    model.set_adapter("default", inference_mode=True)
    assert trained(model) == set()
    model.base_model.set_adapter(["default", "other"])
    assert trained(model) == {"default", "other"}
    model.set_requires_grad("other", requires_grad=False)
    assert trained(model) == {"default"}
    with model.disable_adapter():
        assert trained(model) == set()
    assert "default" in trained(model)


def test_an_adapter_for_inference_is_frozen(case: Any) -> None:
    model = get_peft_model(case.base(), case.config(inference_mode=True))
    assert trained(model) == set()


def test_disabling_within_disabling_ends_with_the_outer(case: Any) -> None:
    model = case.adapted()
    on, off = case.run(model), case.run(case.base())
    with model.disable_adapter():
        with model.disable_adapter():
            assert torch.equal(case.run(model), off)
        assert torch.equal(case.run(model), off)
    assert torch.equal(case.run(model), on)


def test_a_name_is_given_once(case: Any) -> None:
    model = case.adapted()
    before = case.run(model)
    with pytest.raises(ValueError, match="'default' already exists"):
        model.add_adapter("default", case.config(r=8))
    assert torch.equal(case.run(model), before)


def test_merging_one_after_the_other_is_merging_both(case: Any) -> None:
    model = case.adapted()
    model.add_adapter("other", case.config(lora_alpha=3))
    model.base_model.set_adapter(["default", "other"])
    both, off = case.run(model), case.run(case.base())
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="Already following adapters were merged default"):
        model.merge_adapter(["other"])
    assert torch.allclose(case.run(model), both, atol=1e-4)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.allclose(case.run(model), off, atol=1e-4)


def test_deleting_leaves_nothing_behind(case: Any) -> None:
    model = case.adapted()
    model.add_adapter("other", case.config())
    model.delete_adapter("other")
    assert not any("other" in name for name, _ in model.named_parameters())
    layers = [m for m in model.modules() if hasattr(m, "blocklora_A")]
    for layer in layers:
        kept = (getattr(layer, name) for name in layer.adapter_layer_names + layer.other_param_names)
        assert all("other" not in values for values in kept)
    assert "other" not in model.peft_config
    with pytest.raises(ValueError, match="nobody does not exist"):
        model.delete_adapter("nobody")
