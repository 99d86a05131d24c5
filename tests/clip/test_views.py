from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import CLIPVisionModelWithProjection

from blocklora.clip.lean import LeanTower
from blocklora.clip.views import shared_view, with_weights


def model_of(random_clip: Any, kind: str) -> Any:
    case = random_clip(dtype=torch.float32)
    if kind == "image tower":
        return CLIPVisionModelWithProjection(case.model.config.vision_config).requires_grad_(False).eval()
    if kind == "after lean":
        with torch.no_grad():
            LeanTower(case.model.vision_model, case.model.visual_projection).images(case.pixels)
    return case.model


@pytest.fixture(params=["whole model", "image tower", "after lean"])
def model(random_clip: Any, request: pytest.FixtureRequest) -> Any:
    return model_of(random_clip, request.param)


def storages(*models: nn.Module) -> dict[int, int]:
    """Bytes of every storage."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
    }


def features(model: Any) -> torch.Tensor:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.vision_model(pixel_values=pixels).pooler_output


def test_a_view_is_a_second_tree_on_the_same_storage(model: Any) -> None:
    model.vision_model.encoder.layers[0].train()
    view = shared_view(model)
    assert type(view) is type(model)
    assert storages(model, view) == storages(model)
    for one, other in zip(model.modules(), view.modules(), strict=True):
        assert one is not other
        assert one.training == other.training
    kinds = (model.named_parameters(), view.named_parameters()), (model.named_buffers(), view.named_buffers())
    for ours, theirs in kinds:
        for (name, one), (same, other) in zip(ours, theirs, strict=True):
            assert name == same
            assert one is not other
            assert one.data_ptr() == other.data_ptr()
            assert one.stride() == other.stride()
    assert not any(parameter.requires_grad for parameter in view.parameters())
    assert torch.equal(features(view), features(model))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by an old name
def test_what_happens_in_a_view_leaves_the_model_untouched(model: Any) -> None:
    model.visual_projection.weight.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules, expected = [type(module) for module in model.modules()], features(model)
    view = shared_view(model)
    adapted = get_peft_model(view, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    for name, parameter in view.named_parameters():
        if "layer_norm" in name:
            parameter.data = torch.zeros_like(parameter)
    view.train()
    assert not torch.allclose(features(adapted.base_model.model), expected)
    assert [type(module) for module in model.modules()] == modules
    assert not any(module.training for module in model.modules())
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "visual_projection.weight"
    ]
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(features(model), expected)


def test_tied_parameters_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    view = shared_view(model)
    assert view[1].weight is view[0].weight
    changed = with_weights(model, {"0.weight": torch.zeros(4, 4)})
    assert not changed[1].weight.any()
    assert model[1].weight.any()


def test_other_weights(model: Any) -> None:
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    before, expected = dict(model.named_parameters())[name].clone(), features(model)
    view = with_weights(model, {name: torch.zeros(before.shape, dtype=torch.float64)})
    changed = dict(view.named_parameters())[name]
    assert changed.dtype == before.dtype
    assert not changed.any()
    assert not torch.allclose(features(view), expected)
    assert torch.equal(dict(model.named_parameters())[name], before)
    assert torch.equal(features(model), expected)
    assert len(storages(model, view)) == len(storages(model)) + 1


def test_weights_that_do_not_fit_are_named() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"no parameters named other, wrong\.name"):
        with_weights(model, {"wrong.name": torch.ones(1), "weight": torch.ones(3, 4), "other": torch.ones(1)})
    with pytest.raises(ValueError, match=r"weight \(4, 3\) instead of \(3, 4\)"):
        with_weights(model, {"weight": torch.ones(4, 3)})
