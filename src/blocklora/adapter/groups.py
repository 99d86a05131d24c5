"""Optimizer groups under which folded Block-LoRA trains exactly as its n blocks would."""

from __future__ import annotations

from typing import Any

from torch import nn

from blocklora.adapter.layer import BlockLoraLinear

__all__ = ["param_groups"]


def param_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW so that both parametrizations follow one trajectory.

    n equal blocks, each stepped by lr, move their sum by n lr; decay shrinks every block, and so their sum, by
    lr wd. The folded B, which is that sum, therefore gets the learning rate n lr and the weight decay wd / n.
    Everything else, and every parameter of "blocks", gets lr and wd. A schedule has to multiply each group's
    rate by one factor: a floor in absolute numbers (``eta_min``) would break the equality.

    Args:
        model: A model with Block-LoRA adapters.
        lr: Learning rate of one block, > 0.
        weight_decay: Decoupled weight decay of one block, >= 0.

    Returns:
        Groups for ``torch.optim.AdamW``: the plain parameters, then a group for each number of blocks of folded layers.
    """
    blocks = _folded_blocks(model)
    groups: dict[int, list[nn.Parameter]] = {1: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(blocks.get(id(parameter), 1), []).append(parameter)
    return [
        {"params": params, "lr": lr * n, "weight_decay": weight_decay / n}
        for n, params in sorted(groups.items())
        if params
    ]


def _folded_blocks(model: nn.Module) -> dict[int, int]:
    """Number of blocks that each folded up-projection stands for, by the parameter's identity."""
    return {
        id(B): layer.n_blocks[name]
        for layer in model.modules()
        if isinstance(layer, BlockLoraLinear)
        for name, B in layer.blocklora_B.items()
        if layer.parametrization[name] == "folded"
    }
