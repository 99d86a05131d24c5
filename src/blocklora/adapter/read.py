"""Read an adapter's files, and put them into a model so that nothing of them is lost.

PEFT passes over tensors that find no place, and leaves random those that it finds no tensor for. Both are errors here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blocklora.core.errors import ConfigError, RunError

__all__ = ["PREFIX", "load_adapter", "plain_name", "read_files"]

PREFIX = "base_model.model."
_TEXT_TOWER = (f"{PREFIX}text_model.", f"{PREFIX}text_projection.")
_COMPILED = "_orig_mod."
_NAMED = 3  # how many tensors an error names


def load_adapter(
    model: nn.Module, folder: str | os.PathLike[str], *, image_tower_only: bool = False
) -> PeftModel:
    """Put an adapter from a folder into a model, frozen and in evaluation mode.

    The adapter of a model that ``torch.compile`` had wrapped is understood. Torch's random state is left alone.

    Args:
        model: The model to adapt, which is changed in place.
        folder: PEFT's files: ``adapter_config.json`` and ``adapter_model.safetensors``. No pickle is read.
        image_tower_only: The model is the image tower of the one that the adapter was trained in, so the tensors of
            the text tower are left over.

    Returns:
        The model with the adapter. Every tensor of the file is in it, and it has no other adapter parameters.

    Raises:
        RunError: A file is missing or damaged, or the adapter does not fit the model: a tensor is missing, left over,
            of another shape, or not finite. The model must not be used then: load it again.
    """
    try:
        config, tensors = read_files(folder)
        if image_tower_only:
            tensors = {name: value for name, value in tensors.items() if not name.startswith(_TEXT_TOWER)}
        adapted = _with_empty_adapter(model, config)
        set_peft_model_state_dict(adapted, tensors)
        _check_all_arrived(get_peft_model_state_dict(adapted, save_embedding_layers=False), tensors)
    except Exception as error:
        raise RunError(
            f"{folder}: this adapter cannot be used with this model: {' '.join(str(error).split())[:800]} Expected "
            "the adapter of the same base model, written by the installed version of peft; fit it again, or put "
            "the files back as they were."
        ) from error
    return adapted.eval()


def read_files(folder: str | os.PathLike[str]) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Read the configuration and the tensors of an adapter that ``save_pretrained`` wrote.

    Raises:
        ConfigError: A file is missing, or damaged, or a value is not finite.
    """
    place = Path(folder)
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        if not (place / name).is_file():
            raise ConfigError(f"{place / name} is missing; pass a folder that save_pretrained wrote.")
    try:
        tensors = load_file(place / SAFETENSORS_WEIGHTS_NAME)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{place / SAFETENSORS_WEIGHTS_NAME} is damaged ({error}).") from error
    if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise ConfigError(f"Tensors with NaN or infinite values: {_some(bad)}.")
    plain = {plain_name(name): value for name, value in tensors.items()}
    if len(plain) < len(tensors):
        raise ConfigError(f"Tensors are there twice, with and without '{_COMPILED}' in their names.")
    return PeftConfig.from_pretrained(str(place)), plain


def plain_name(name: str) -> str:
    """Return the name that a module or tensor has without ``torch.compile``."""
    return name.replace(_COMPILED, "")


def _with_empty_adapter(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Return the model with an adapter that still has the values of its start."""
    config.inference_mode = True
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # transformers renamed gradient checkpointing; PEFT still asks for it by the old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        return PeftModel(model, config)


def _check_all_arrived(there: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    """Raise unless a model's adapter holds the given tensors and no others.

    The shapes of equal names may differ where a file of one parametrization went into the other.
    """
    changed = {
        name
        for name, value in there.items()
        if name in given
        and value.shape == given[name].shape
        and not torch.equal(value.cpu(), given[name].to(value.dtype))
    }
    faults = [
        ("missing in the file", there.keys() - given.keys()),
        ("without a place in the model", given.keys() - there.keys()),
        ("not taken over", changed),
    ]
    if told := [f"{len(names)} {fault} ({_some(names)})" for fault, names in faults if names]:
        raise ConfigError(f"Tensors: {'; '.join(told)}.")


def _some(names: Iterable[str]) -> str:
    """Return the first few names, and whether there are more."""
    listed = sorted(names)
    return ", ".join(listed[:_NAMED]) + (", ..." if len(listed) > _NAMED else "")
