"""The PEFT tuner: which layers are adapted, and what PEFT asks of a method as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from blocklora.adapter.config import BlockLoraConfig
from blocklora.adapter.layer import BlockLoraLinear
from blocklora.errors import ConfigError

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
    target_module_mapping = {  # noqa: RUF012 - declared so by the base class
        **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        "clip": ["q_proj", "k_proj", "v_proj"],
    }

    def _create_and_replace(
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
        layer = BlockLoraLinear(target, adapter_name, peft_config, settings)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: BlockLoraConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Let a file of one parametrization load into the other: add the arms up, or share the sum out."""
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
        hook = partial(_pass_adapter_names, adapter_names=names)
        handles = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for module in self.modules()
            if isinstance(module, BlockLoraLinear | AuxiliaryTrainingWrapper)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _known_adapters(self) -> set[str]:
        layers = (m for m in self.modules() if isinstance(m, BlockLoraLinear))
        return {name for layer in layers for name in layer.blocklora_A}


def _pass_adapter_names(module: nn.Module, args: Any, kwargs: Any, adapter_names: list[str]) -> Any:
    return args, {**kwargs, "adapter_names": adapter_names}


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
