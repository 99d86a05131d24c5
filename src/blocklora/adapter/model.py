"""The PEFT tuner: which layers are adapted, and what PEFT asks of a method as a whole."""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from blocklora.adapter.combine import combine, combined_rank
from blocklora.adapter.config import BlockLoraConfig
from blocklora.adapter.layer import BlockLoraLinear
from blocklora.core.errors import ConfigError

__all__ = ["BlockLoraModel"]


class BlockLoraModel(BaseTuner):
    """A model whose linear layers carry Block-LoRA adapters; ``peft.get_peft_model`` builds it.

    Args:
        model: The model to adapt.
        peft_config: A ``BlockLoraConfig``, or one for each adapter name.
        adapter_name: Name of the adapter.
        low_cpu_mem_usage: Create the factors on the meta device, for loading.
    """

    prefix = "blocklora_"
    tuner_layer_cls = BlockLoraLinear
    # LoRA's targets, also those that are registered later, and CLIP's.
    target_module_mapping = cast(
        Any,
        ChainMap(
            {"clip": ["q_proj", "k_proj", "v_proj"]}, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        ),
    )

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: BlockLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        settings = peft_config.for_layer(current_key)
        if isinstance(target, BlockLoraLinear):
            target.update_layer(
                adapter_name, peft_config, settings, inference_mode=peft_config.inference_mode
            )
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        _check_supported(base, current_key)
        _note_layout(base, peft_config)
        layer = BlockLoraLinear(target, adapter_name, peft_config, settings)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(  # type: ignore[override]
        cls, model: nn.Module, config: BlockLoraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Let a file of one parametrization load into the other: add the blocks up, or share the sum out."""
        state_dict = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        suffix = f".blocklora_B.{adapter_name}"
        for name, layer in model.named_modules():
            key = name + suffix
            if not isinstance(layer, BlockLoraLinear) or key not in state_dict:
                continue
            n, here = layer.n_blocks[adapter_name], layer.blocklora_B[adapter_name].shape[0]
            B = state_dict[key]
            if here == 1 and B.shape[0] == n:
                state_dict[key] = B.sum(0, keepdim=True)
            elif here == n and B.shape[0] == 1:
                state_dict[key] = (B / n).repeat(n, 1, 1)  # (1, d_out, k) -> (n, d_out, k)
        return state_dict

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "cat"
    ) -> None:
        """Add a frozen adapter that is a weighted sum of others.

        Args:
            adapters: Names of the adapters to combine.
            weights: Weight of each.
            adapter_name: Name of the new adapter; nothing happens where it exists already.
            combination_type: "cat" (exact; ranks add up) or "linear" (factors are added, as PEFT does for LoRA).

        Raises:
            ConfigError: An adapter does not exist, or the adapters cannot be combined in this way.
        """
        if adapter_name in self.peft_config:
            return
        self._check_combination(adapters, weights)
        layers = [layer for layer in self.modules() if isinstance(layer, BlockLoraLinear)]
        layers = [layer for layer in layers if any(name in layer.blocklora_A for name in adapters)]
        ranks = [
            combined_rank(
                [layer.blocklora_A[a].shape[0] for a in adapters if a in layer.blocklora_A], combination_type
            )
            for layer in layers
        ]
        first = cast(BlockLoraConfig, self.peft_config[adapters[0]])
        self.peft_config[adapter_name] = replace(
            first,
            r=max(ranks),
            n_blocks=1,
            lora_alpha=max(ranks),
            use_rslora=False,
            target_modules=cast(Any, self._joined_targets(adapters)),
            rank_pattern={},
            alpha_pattern={},
            blocks_pattern={},
            parametrization="blocks",
            arm_dropout=False,
        )
        self.inject_adapter(self.model, adapter_name)
        self.set_requires_grad(adapter_name, requires_grad=False)
        for layer in layers:
            parts = [
                layer.folded(name, w)
                for name, w in zip(adapters, weights, strict=True)
                if name in layer.blocklora_A
            ]
            layer.write(adapter_name, *combine(parts, combination_type))

    def _check_combination(self, adapters: list[str], weights: list[float]) -> None:
        for name in adapters:
            if name not in self.peft_config:
                raise ConfigError(f"Adapter {name} does not exist")
        if not adapters or len(adapters) != len(weights):
            raise ConfigError(
                f"Expected one weight for each adapter, got {len(adapters)} and {len(weights)}."
            )
        wrappers = [module for module in self.modules() if isinstance(module, ModulesToSaveWrapper)]
        shared = sum(sum(name in wrapper.modules_to_save for name in adapters) > 1 for wrapper in wrappers)
        if shared:
            raise ConfigError(
                "Cannot add weighted adapters if they target the same module with modules_to_save, but found "
                f"{shared} such instance(s)."
            )

    def _joined_targets(self, adapters: list[str]) -> str | set[str]:
        targets = [cast(BlockLoraConfig, self.peft_config[name]).target_modules for name in adapters]
        if all(isinstance(target, str) for target in targets):
            return "|".join(f"({target})" for target in targets)
        if any(isinstance(target, str) for target in targets):
            raise ConfigError(
                "All adapter configs should follow the same target modules type: a list for each, or a str for each."
            )
        return set().union(*(target or () for target in targets))

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = set(names) - {"__base__"} - self._known_adapters()
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
        repeated = [name for name in names for _ in range(kwargs.get("num_beams") or 1)]
        once = self._encoder_modules()  # beam search repeats the samples, but not for an encoder
        handles = [
            module.register_forward_pre_hook(
                partial(_pass_adapter_names, adapter_names=names if module in once else repeated),
                with_kwargs=True,
            )
            for module in self.modules()
            if isinstance(module, BlockLoraLinear | AuxiliaryTrainingWrapper)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _encoder_modules(self) -> set[nn.Module]:
        """Every module of the encoder of an encoder-decoder model; transformers returns a model without one itself."""
        find: Any = getattr(self.model, "get_encoder", None)
        encoder = None if find is None else find()
        return set() if encoder is None or encoder is self.model else set(encoder.modules())

    def _known_adapters(self) -> set[str]:
        layers = (m for m in self.modules() if isinstance(m, BlockLoraLinear))
        return {name for layer in layers for name in layer.blocklora_A}


def _pass_adapter_names(module: nn.Module, args: Any, kwargs: Any, adapter_names: list[str]) -> Any:
    return args, {**kwargs, "adapter_names": adapter_names}


def _note_layout(base: nn.Module, config: BlockLoraConfig) -> None:
    """Let the configuration say how the weights lie, for the file and for a folded LoRA."""
    if isinstance(base, Conv1D):
        config.fan_in_fan_out = True
    elif config.fan_in_fan_out:
        warnings.warn(
            "fan_in_fan_out is set to True but the target module is `torch.nn.Linear`. "
            "Setting fan_in_fan_out to False.",
            stacklevel=2,
        )
        config.fan_in_fan_out = False


def _check_supported(base: nn.Module, name: str) -> None:
    """Refuse, by name, every layer whose forward or weight Block-LoRA could not honour."""
    kind = type(base).__name__
    supported = "torch.nn.Linear and transformers' Conv1D, with float weights"
    if isinstance(base, NonDynamicallyQuantizableLinear):
        raise ConfigError(
            f"Target module {name!r} is the out_proj of torch.nn.MultiheadAttention, which reads its weight "
            "without calling it, so that an adapter there would do nothing. Add it to exclude_modules."
        )
    if not isinstance(base, nn.Linear | Conv1D):
        raise ConfigError(
            f"Target module {name!r} ({kind}) is not supported. Block-LoRA adapts {supported}; "
            "leave it out of target_modules."
        )
    weight = base.weight
    if resolve_quantization_backend(base) is not None or not torch.is_floating_point(weight):
        raise ConfigError(
            f"Target module {name!r} ({kind}, weight {weight.dtype}) is quantised, which Block-LoRA does not "
            f"support. It adapts {supported}: load the model without a quantization_config, or fold the "
            "adapter into a LoRA (fold_to_lora) and use that on the quantised model."
        )
