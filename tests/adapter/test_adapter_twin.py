"""The folded twin follows the arms step for step, and nothing but the right groups makes it do so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocklora.adapter import BlockLoraConfig, BlockLoraLinear, param_groups
from blocklora.adapter.functional import init_factors

LR, DECAY, STEPS = 0.02, 0.3, 200


def trained(case: Any, parametrization: str, groups: Any) -> list[Tensor]:
    """Every A and every sum of arms after 200 steps of AdamW in float64, with dropout."""
    torch.manual_seed(0)
    options = {"parametrization": parametrization, "lora_dropout": 0.25, "r": 6, "n_blocks": 3}
    model = case.adapted(**options, init_weights=True)
    model = model.double().train()
    optimizer = torch.optim.AdamW(groups(model))
    data = torch.Generator().manual_seed(2)
    torch.manual_seed(3)  # the masks
    for _ in range(STEPS):
        x = torch.randn(8, 10, generator=data, dtype=torch.float64)
        loss = nn.functional.mse_loss(model(x), x[:, :3].sin())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layers = [m for m in model.modules() if isinstance(m, BlockLoraLinear)]
    return [
        t
        for m in layers
        for t in (m.blocklora_A["default"].detach(), m.blocklora_B["default"].detach().sum(0))
    ]


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference, relative to the largest value of the tensor."""
    return max(((x - y).abs().max() / x.abs().max()).item() for x, y in zip(a, b, strict=True))


def ours(model: nn.Module) -> Any:
    return param_groups(model, LR, DECAY)


def naive(rate: float, decay: float) -> Any:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        up = [p for name, p in named if "blocklora_B" in name]
        rest = [p for name, p in named if "blocklora_B" not in name]
        return [
            {"params": rest, "lr": LR, "weight_decay": DECAY},
            {"params": up, "lr": LR * rate, "weight_decay": DECAY * decay},
        ]

    return groups


@pytest.fixture
def arms(mlp: Any) -> list[Tensor]:
    return trained(mlp, "blocks", ours)


def test_twin_equals_the_arms_after_200_steps(mlp: Any, arms: list[Tensor]) -> None:
    assert gap(arms, trained(mlp, "folded", ours)) < 1e-11


@pytest.mark.parametrize(("rate", "decay"), [(1, 1), (3, 1), (1, 1 / 3)])
def test_the_obvious_other_choices_do_not(mlp: Any, arms: list[Tensor], rate: float, decay: float) -> None:
    assert gap(arms, trained(mlp, "folded", naive(rate, decay))) > 0.02


def test_distinct_arms_that_share_a_mask_move_their_sum_as_equal_arms_do(
    mlp: Any, arms: list[Tensor]
) -> None:
    """Every arm has the same gradient, so Gaussian arms that sum to zero only matter with masks of their own."""

    def spread(model: nn.Module) -> Any:
        stream = torch.get_rng_state()
        for layer in (m for m in model.modules() if isinstance(m, BlockLoraLinear)):
            A, B = layer.blocklora_A["default"], layer.blocklora_B["default"]
            init_factors(torch.empty_like(A), B, "gaussian")
            assert not torch.equal(B[0], B[1])
        torch.set_rng_state(stream)
        return ours(model)

    assert gap(arms, trained(mlp, "blocks", spread)) < 1e-11


def test_arms_stay_equal_with_one_mask_and_part_with_their_own(mlp: Any) -> None:
    for own in (False, True):
        model = mlp.adapted(lora_dropout=0.5, arm_dropout=own, init_weights=True).train()
        optimizer = torch.optim.AdamW(param_groups(model, 0.01))
        for _ in range(3):
            optimizer.zero_grad()
            mlp.run(model).square().sum().backward()
            optimizer.step()
        B = model.base_model.model.lin0.blocklora_B["default"]
        assert torch.equal(B[0], B[1]) is not own


def test_groups_by_number_of_arms(mlp: Any) -> None:
    model = mlp.adapted(parametrization="folded", blocks_pattern={"lin0": 4}, modules_to_save=["head"])
    groups = param_groups(model, 0.1, 0.8)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (0.1, 0.8, 4),
        (0.2, 0.4, 1),
        (0.4, 0.2, 1),
    ]
    trained_here = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for g in groups for p in g["params"]} == trained_here


def test_blocks_make_one_group(mlp: Any) -> None:
    assert len(param_groups(mlp.adapted(), 0.1, 0.1)) == 1
    assert BlockLoraConfig().parametrization == "blocks"
