"""The gradients of all processes, added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blocklora.core.ranks import Ranks

__all__ = ["add_gradients"]


def add_gradients(parameters: Sequence[nn.Parameter], loss: Tensor, ranks: Ranks) -> Tensor:
    """Add up what every rank's images and classes have given to the gradients, and their parts of the loss.

    Everything goes in one message. A parameter that has a gradient on no rank keeps none.

    Args:
        parameters: The trainable ones, in the same order on every rank.
        loss: This rank's part of the loss, a scalar.
        ranks: The processes.

    Returns:
        The loss, a scalar.
    """
    if ranks.count == 1:
        return loss
    has = loss.new_tensor([parameter.grad is not None for parameter in parameters])
    own = [
        loss.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1).to(loss.dtype) for p in parameters
    ]
    total = ranks.sum(torch.cat([loss.reshape(1), has, *own]))
    loss, has, *gradients = torch.split(total, [1, len(has), *(len(part) for part in own)])
    for parameter, some, gradient in zip(parameters, has.tolist(), gradients, strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if some else None
    return loss.reshape(())
