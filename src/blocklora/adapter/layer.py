"""One adapted linear layer: parameters and bookkeeping around the pure functions of ``functional``."""

from __future__ import annotations

import math
import warnings
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from blocklora.adapter.combine import Folded
from blocklora.adapter.config import BlockLoraConfig, LayerSettings
from blocklora.adapter.functional import block_lora, fold, init_factors
from blocklora.core.errors import ConfigError

__all__ = ["BlockLoraLinear"]


class BlockLoraLinear(nn.Module, BaseTunerLayer):
    """A frozen linear layer with any number of Block-LoRA adapters.

    Args:
        base_layer: The frozen ``nn.Linear`` or ``Conv1D``, or another tuner's layer around one.
        adapter_name: Name of the first adapter.
        config: Its configuration.
        settings: Rank, blocks and alpha of this layer, as ``config.for_layer`` gives them.
    """

    adapter_layer_names = ("blocklora_A", "blocklora_B")
    other_param_names = (
        "r",
        "n_blocks",
        "lora_alpha",
        "scaling",
        "blocklora_dropout",
        "use_rslora",
        "parametrization",
        "arm_dropout",
    )

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BlockLoraConfig, settings: LayerSettings
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.blocklora_A = nn.ParameterDict()
        self.blocklora_B = nn.ParameterDict()
        self.r: dict[str, int] = {}
        self.n_blocks: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.blocklora_dropout: dict[str, float] = {}
        self.use_rslora: dict[str, bool] = {}
        self.parametrization: dict[str, str] = {}
        self.arm_dropout: dict[str, bool] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True  # PEFT may switch it; our casts are part of the function
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
        rows, columns = self._base_weight().shape
        self.out_features, self.in_features = (columns, rows) if self.fan_in_fan_out else (rows, columns)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, settings, inference_mode=config.inference_mode)

    def update_layer(
        self,
        adapter_name: str,
        config: BlockLoraConfig,
        settings: LayerSettings,
        *,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: Name of the adapter.
            config: Its configuration.
            settings: Rank, blocks and alpha of this layer.
            inference_mode: Leave the new factors frozen.
        """
        r, n, alpha = settings
        k = r // n
        blocks = 1 if config.parametrization == "folded" else n
        self.r[adapter_name], self.n_blocks[adapter_name], self.lora_alpha[adapter_name] = r, n, alpha
        self.scaling[adapter_name] = config.scale(settings)
        self.blocklora_dropout[adapter_name] = config.lora_dropout
        self.use_rslora[adapter_name] = config.use_rslora
        self.parametrization[adapter_name] = config.parametrization
        self.arm_dropout[adapter_name] = config.arm_dropout
        self.blocklora_A[adapter_name] = nn.Parameter(torch.empty(k, self.in_features))
        self.blocklora_B[adapter_name] = nn.Parameter(torch.empty(blocks, self.out_features, k))
        init_factors(self.blocklora_A[adapter_name], self.blocklora_B[adapter_name], config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _base_weight(self) -> nn.Parameter:
        weight = self.get_base_layer().weight
        return cast(nn.Parameter, weight)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The adapter's change of the weight, in the layout of the frozen weight.

        Args:
            adapter: Name of the adapter.

        Returns:
            s (sum_i B_i) A, shape (d_out, d_in), or transposed where the layer stores (d_in, d_out).
        """
        A, B = self.blocklora_A[adapter], self.blocklora_B[adapter]
        half = A.dtype in (torch.float16, torch.bfloat16) and A.device.type == "cpu"
        if half:  # 16-bit products are slow on some CPUs
            A, B = A.float(), B.float()
        delta = (fold(B) @ A) * self.scaling[adapter]
        laid_out: Tensor = delta.T if self.fan_in_fan_out else delta
        return laid_out.to(self.blocklora_A[adapter].dtype)

    def folded(self, adapter: str, weight: float = 1.0) -> Folded:
        """An adapter of this layer as a plain LoRA, with a weight to combine it by."""
        A, B = self.blocklora_A[adapter].detach(), self.blocklora_B[adapter].detach()
        return Folded(A, fold(B), self.scaling[adapter], weight)

    def write(self, adapter: str, A: Tensor, B: Tensor) -> None:
        """Set an adapter's factors to A (k, d_in) and B (..., d_out, k), k at most its own; the rest becomes zero."""
        k = A.shape[0]
        with torch.no_grad():
            self.blocklora_A[adapter].zero_()[:k] = A
            self.blocklora_B[adapter].zero_()[..., :k] = B

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters into the frozen weight.

        Args:
            safe_merge: Work on a copy, and refuse a result that is not finite.
            adapter_names: Which adapters; None: the active ones.

        Raises:
            ValueError: ``safe_merge`` found values that are not finite.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.blocklora_A:
                continue
            weight = self._base_weight()
            delta = self.get_delta_weight(name).to(weight.dtype)
            if safe_merge:
                merged = weight.data + delta
                if not torch.isfinite(merged).all():
                    raise ValueError(
                        f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                    )
                weight.data = merged
            else:
                weight.data += delta
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take every merged adapter out of the frozen weight again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            weight = self._base_weight()
            weight.data -= self.get_delta_weight(self.merged_adapters[-1]).to(weight.dtype)
            self.merged_adapters.pop()

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scale to ``scale`` times the configured one; a layer without it does nothing."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self._configured_scale(adapter)

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of all active adapters by ``scale``."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scale of all active adapters by ``scale``; None: go back to the configured scale."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] = self.scaling[name] / scale if scale else self._configured_scale(name)

    def _configured_scale(self, name: str) -> float:
        rank = math.sqrt(self.r[name]) if self.use_rslora[name] else self.r[name]
        return self.lora_alpha[name] / rank

    def _update(self, name: str, x: Tensor) -> Tensor:
        A = self.blocklora_A[name]
        dropout = self.blocklora_dropout[name] if self.training else 0.0
        return block_lora(
            x,
            A,
            self.blocklora_B[name],
            self.scaling[name],
            dropout=dropout,
            arm_dropout=self.arm_dropout[name],
        )

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Apply the frozen layer and the active adapters.

        Args:
            x: Input, shape (..., d_in).
            *args: Passed on to the frozen layer.
            adapter_names: Adapter of each sample (first axis of x); "__base__" for none. Inference only.
            **kwargs: Passed on to the frozen layer.

        Returns:
            Output, shape (..., d_out), in the frozen layer's type.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        if adapter_names is not None and not self.disable_adapters:
            return self._mixed_forward(x, args, adapter_names, kwargs)
        out: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return out
        dtype = out.dtype
        for name in self.active_adapters:
            if name in self.blocklora_A:
                out = out + self._update(name, x)
        return out.to(dtype)

    def _mixed_forward(self, x: Tensor, args: Any, adapter_names: list[str], kwargs: Any) -> Tensor:
        if len(x) != len(adapter_names):
            raise ConfigError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ConfigError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` "
                "first."
            )
        out: Tensor = self.base_layer(x, *args, **kwargs)
        for name in dict.fromkeys(adapter_names):
            if name in self.blocklora_A:
                rows = [i for i, wanted in enumerate(adapter_names) if wanted == name]
                out[rows] += self._update(name, x[rows]).to(out.dtype)
        return out

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the adapter is a plain LoRA in disguise: always."""
        return True

    def __repr__(self) -> str:
        return "blocklora." + super().__repr__()
