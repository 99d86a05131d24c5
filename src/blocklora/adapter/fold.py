"""Between Block-LoRA and plain LoRA, exactly: fold adds the blocks up, unfold makes n equal blocks of a LoRA."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from peft import LoraConfig, PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from blocklora.adapter import functional
from blocklora.adapter.base_weights import INITS_BESIDE_THE_BASE
from blocklora.adapter.config import BlockLoraConfig, LayerSettings
from blocklora.adapter.read import PREFIX, plain_name, read_files
from blocklora.core.errors import ConfigError
from blocklora.core.files import write_bytes, write_json

__all__ = ["fold_to_lora", "unfold_lora"]

_V = TypeVar("_V")
_LORA_BIAS: Mapping[str, Any] = {"none": "none", "all": "all", "blocklora_only": "lora_only"}
_SHARED = (
    "task_type", "base_model_name_or_path", "revision", "auto_mapping", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "lora_dropout", "modules_to_save", "fan_in_fan_out",
)  # fmt: skip
_REFUSED = (
    "use_dora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)


def fold_to_lora(
    model_or_path: nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    adapter_name: str = "default",
) -> Path:
    """Write a Block-LoRA adapter as a plain LoRA of rank k that stock PEFT loads without this package.

    A = A_s, B = sum_i B_i and the same scale, so that the two compute the same numbers.

    Args:
        model_or_path: A model carrying the adapter, or a folder that ``save_pretrained`` wrote.
        out: Folder to write ``adapter_config.json`` and ``adapter_model.safetensors`` to.
        adapter_name: Which of the model's adapters; a folder holds only one.

    Returns:
        The folder written.

    Raises:
        ConfigError: There is no such adapter, or it is not a Block-LoRA.
    """
    config, state = _read(model_or_path, adapter_name)
    if not isinstance(config, BlockLoraConfig):
        raise ConfigError(
            f"The adapter is a {config.peft_type} and not a Block-LoRA; only Block-LoRA can be folded."
        )
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        if kind == "blocklora_A":
            tensors[f"{name}.lora_A.weight"] = value
            layer = name.removeprefix(PREFIX)
            ranks[layer] = value.shape[0]
            alphas[layer] = config.scale(config.for_layer(layer)) * value.shape[0]
        elif kind == "blocklora_B":
            tensors[f"{name}.lora_B.weight"] = functional.fold(value)
        else:
            tensors[key] = value
    k = config.r // config.n_blocks
    alpha = config.scale(LayerSettings(config.r, config.n_blocks, config.lora_alpha)) * k
    lora = LoraConfig(
        r=k,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a float works: only the quotient alpha / r is used
        rank_pattern=_pattern(ranks, k),
        alpha_pattern=_pattern(alphas, alpha),
        bias=_LORA_BIAS[config.bias],
        inference_mode=True,
        **_shared(config),
    )
    return _write(lora, tensors, Path(out))


def unfold_lora(
    model_or_path: nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    n_blocks: int,
    adapter_name: str = "default",
) -> Path:
    """Write a plain LoRA of rank k as a Block-LoRA of n equal blocks, B_i = B / n; total rank n k, same scale.

    Args:
        model_or_path: A model carrying a LoRA adapter, or a folder that ``save_pretrained`` wrote.
        out: Folder to write the Block-LoRA adapter to.
        n_blocks: Number of blocks n, at least 1.
        adapter_name: Which of the model's adapters; a folder holds only one.

    Returns:
        The folder written.

    Raises:
        ConfigError: The adapter is not a plain LoRA of linear layers, or n_blocks is below 1.
    """
    if n_blocks < 1:
        raise ConfigError(f"n_blocks={n_blocks} should be at least 1.")
    config, state = _read(model_or_path, adapter_name)
    _check_plain_lora(config, state)
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(".lora_A.weight"):
            tensors[key.replace(".lora_A.weight", ".blocklora_A")] = value
        elif key.endswith(".lora_B.weight"):
            blocks = (value / n_blocks).expand(n_blocks, *value.shape)  # (d_out, k) -> (n, d_out, k)
            tensors[key.replace(".lora_B.weight", ".blocklora_B")] = blocks
        else:
            tensors[key] = value
    grow = math.sqrt(n_blocks) if config.use_rslora else n_blocks
    block = BlockLoraConfig(
        r=config.r * n_blocks,
        n_blocks=n_blocks,
        lora_alpha=config.lora_alpha * grow,
        use_rslora=config.use_rslora,
        rank_pattern={name: r * n_blocks for name, r in config.rank_pattern.items()},
        alpha_pattern={name: alpha * grow for name, alpha in config.alpha_pattern.items()},
        bias="blocklora_only" if config.bias == "lora_only" else config.bias,
        inference_mode=True,
        **_shared(config),
    )
    return _write(block, tensors, Path(out))


def _read(source: nn.Module | str | os.PathLike[str], adapter_name: str) -> tuple[Any, dict[str, Tensor]]:
    """The configuration and the tensors of an adapter, under the names of a saved file and of a plain model."""
    if not isinstance(source, nn.Module):
        return read_files(source)
    model = _unwrapped(source)
    configs: Mapping[str, PeftConfig] = getattr(model, "peft_config", {})
    if adapter_name not in configs:
        found = ", ".join(sorted(configs)) or "none"
        raise ConfigError(f"The model has no adapter named {adapter_name!r}; adapters found: {found}.")
    state = get_peft_model_state_dict(model, adapter_name=adapter_name)
    named = {plain_name(name): value.detach() for name, value in state.items()}
    return configs[adapter_name], {k if k.startswith(PREFIX) else PREFIX + k: v for k, v in named.items()}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = cast(nn.Module, model._modules["_orig_mod"])
        else:
            return model


def _shared(config: Any) -> Mapping[str, Any]:
    """The settings that both methods have; names of modules as in a model without ``torch.compile``."""
    settings = {name: getattr(config, name) for name in _SHARED}
    for name in ("target_modules", "exclude_modules"):
        if isinstance(settings[name], str):
            settings[name] = plain_name(settings[name])
        elif settings[name]:
            settings[name] = {plain_name(module) for module in settings[name]}
    return settings


def _pattern(values: Mapping[str, _V], default: _V) -> dict[str, _V]:
    """A PEFT pattern that gives each layer its value where it is not the default."""
    return {f"^{re.escape(name)}": value for name, value in values.items() if value != default}


def _check_plain_lora(config: Any, state: Mapping[str, Tensor]) -> None:
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"The adapter is a {config.peft_type} and not a LoRA; only LoRA can be unfolded.")
    for name in _REFUSED:
        if getattr(config, name, None):
            raise ConfigError(
                f"The LoRA uses {name}, which Block-LoRA has no counterpart for; it cannot be unfolded."
            )
    if config.init_lora_weights not in INITS_BESIDE_THE_BASE:
        raise ConfigError(
            f"init_lora_weights={config.init_lora_weights!r} has changed the frozen weights, which the unfolded "
            "adapter would not find; save the LoRA with path_initial_model_for_weight_conversion, and unfold that."
        )
    for key, value in state.items():
        if "lora_embedding" in key or (".lora_" in key and value.dim() != 2):
            raise ConfigError(
                f"{key} belongs to a layer that is not linear; Block-LoRA adapts linear layers only."
            )


def _write(config: PeftConfig, tensors: Mapping[str, Tensor], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    whole = {name: value.contiguous().cpu() for name, value in tensors.items()}
    write_bytes(out / SAFETENSORS_WEIGHTS_NAME, save(whole, metadata={"format": "pt"}))
    settings = config.to_dict().items()
    write_json(out / CONFIG_NAME, {k: sorted(v) if isinstance(v, set) else v for k, v in settings})
    return out
