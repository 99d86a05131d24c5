"""Views of a model: a second tree of modules over the same weights, so that a change leaves the model untouched.

An adapter, or other weights, live in a view; zero-shot features always come from the model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from blocklora.core.errors import ConfigError

__all__ = ["shared_view", "with_weights"]

_Model = TypeVar("_Model", bound=nn.Module)


def shared_view(model: _Model) -> _Model:
    """Copy a model's tree of modules, but not its weights.

    Parameters and buffers of the view are new objects on the model's storage. So one may put PEFT layers into the
    view, or assign ``parameter.data`` there, and the model stays as it is. Writing into the values themselves
    (``add_``, an optimizer's step) changes both.

    Args:
        model: Any model; parameters that it ties stay tied in the view.

    Returns:
        The view: no parameter requires a gradient, and each module is in the mode (training or not) that it has in
        the model.
    """
    memo: dict[int, object] = {id(buffer): buffer.detach() for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, memo)


def with_weights(model: _Model, weights: Mapping[str, Tensor]) -> _Model:
    """Return a view of a model in which some parameters have other values.

    Args:
        model: Any model; it stays as it is.
        weights: Values by the names of ``model.named_parameters()``; they take the type and device of the parameter.

    Returns:
        The view; see ``shared_view``.

    Raises:
        ConfigError: A name is unknown, or a value has another shape than the parameter.
    """
    view = shared_view(model)
    parameters = dict(view.named_parameters())
    unknown = sorted(set(weights) - set(parameters))
    if unknown:
        raise ConfigError(f"the model has no parameters named {', '.join(unknown)}.")
    other = [
        f"{name} {tuple(value.shape)} instead of {tuple(parameters[name].shape)}"
        for name, value in weights.items()
        if value.shape != parameters[name].shape
    ]
    if other:
        raise ConfigError(f"weights have other shapes than the model's parameters: {', '.join(other)}.")
    for name, value in weights.items():
        parameters[name].data = value.detach().to(parameters[name])
    return view
