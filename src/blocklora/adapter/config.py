"""Configuration of Block-LoRA. Field names follow PEFT's ``LoraConfig`` wherever they mean the same."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from peft import PeftConfig
from peft.utils.other import get_pattern_key

from blocklora.core.errors import ConfigError

__all__ = ["BlockLoraConfig", "BlockLoraPeftType", "LayerSettings"]

_BIASES = ("none", "all", "blocklora_only")
_PARAMETRIZATIONS = ("blocks", "folded")


class BlockLoraPeftType(str, enum.Enum):  # noqa: UP042 - as PEFT writes its own
    """The key under which PEFT knows Block-LoRA; PEFT's own enumeration is closed to outside methods."""

    BLOCKLORA = "BLOCKLORA"


class LayerSettings(NamedTuple):
    """What the patterns resolve to for one layer.

    Attributes:
        r: Total rank, n_blocks times the rank of one block.
        n_blocks: Number of blocks n.
        alpha: Numerator of the scale.
    """

    r: int
    n_blocks: int
    alpha: float


@dataclass
class BlockLoraConfig(PeftConfig):
    """Settings of a Block-LoRA adapter (arXiv 2501.16720).

    The paper calls a block, B_i with the shared A, an arm; so does the option ``arm_dropout``.

    Args:
        r: Total rank, a positive multiple of ``n_blocks``; one block has rank k = r / n_blocks.
        n_blocks: Number of blocks n that share one down-projection, at least 1.
        lora_alpha: Numerator of the scale s = lora_alpha / r.
        lora_dropout: Probability of zeroing an input of the adapter while training, in [0, 1).
        use_rslora: Use s = lora_alpha / sqrt(r) instead.
        target_modules: Names (or endings of names), a regular expression, or "all-linear"; None: PEFT's
            default for the model.
        exclude_modules: Names or a regular expression of modules to leave alone.
        layers_to_transform: Indices of the layers to adapt; only with a list of ``target_modules``.
        layers_pattern: Name of the layers' container, with ``layers_to_transform``.
        rank_pattern: Name or regular expression -> r of the layers that match.
        alpha_pattern: Name or regular expression -> lora_alpha of the layers that match.
        blocks_pattern: Name or regular expression -> n_blocks of the layers that match.
        bias: Which biases to train: "none", "all" or "blocklora_only".
        modules_to_save: Further modules to train and save whole.
        init_weights: True: start as the frozen model, B zero. "gaussian": distinct blocks that sum to zero, the
            same start. False: random factors, which change the model.
        fan_in_fan_out: The layer stores its weight as (d_in, d_out); set on its own for GPT-2's Conv1D.
        parametrization: "blocks" trains every block; "folded" trains their sum: the same function with
            fewer parameters (see ``param_groups``).
        arm_dropout: Give every block its own dropout mask; needs "blocks".

    Raises:
        ConfigError: A value cannot work; the message names it.
    """

    r: int = field(default=8, metadata={"help": "Total rank: n_blocks times the rank of one block."})
    n_blocks: int = field(default=2, metadata={"help": "Number of blocks that share one down-projection."})
    lora_alpha: float = field(default=8, metadata={"help": "Numerator of the scale."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input, in [0, 1)."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by sqrt(r) instead of r."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to adapt."})
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave alone."}
    )
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer indices."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the layers."})
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Layer name -> r."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Layer name -> alpha."})
    blocks_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Layer name -> n_blocks."})
    bias: str = field(default="none", metadata={"help": "none, all or blocklora_only."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train."})
    init_weights: bool | Literal["gaussian"] = field(default=True, metadata={"help": "How to start."})
    fan_in_fan_out: bool = field(default=False, metadata={"help": "Weights are stored as (d_in, d_out)."})
    parametrization: Literal["blocks", "folded"] = field(
        default="blocks", metadata={"help": "Train every block (blocks) or their sum (folded)."}
    )
    arm_dropout: bool = field(default=False, metadata={"help": "One dropout mask for each block."})

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = BlockLoraPeftType.BLOCKLORA
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        _check_choices(self)
        _check_numbers(self)
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"`{name}` cannot be used when `target_modules` is a str; name the layers in it, "
                        "or pass a list."
                    )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ConfigError(
                "When `layers_pattern` is specified, `layers_to_transform` must also be specified."
            )

    def for_layer(self, name: str) -> LayerSettings:
        """Resolve the three patterns for one layer.

        Args:
            name: Full name of the module in the model.

        Returns:
            The layer's total rank, number of blocks and alpha.

        Raises:
            ConfigError: The layer's rank is not a positive multiple of its number of blocks.
        """
        r = _lookup(self.rank_pattern, name, self.r)
        n = _lookup(self.blocks_pattern, name, self.n_blocks)
        _check_rank(r, n, f" for layer {name!r}")
        return LayerSettings(r, n, _lookup(self.alpha_pattern, name, self.lora_alpha))

    def scale(self, layer: LayerSettings) -> float:
        """The factor s of a layer's update: alpha / sqrt(r) with ``use_rslora``, else alpha / r."""
        return layer.alpha / (math.sqrt(layer.r) if self.use_rslora else layer.r)


def _lookup(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    return pattern.get(get_pattern_key(list(pattern), name), default)


def _check_rank(r: Any, n: Any, where: str = "") -> None:
    for name, value in (("r", r), ("n_blocks", n)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"`{name}` should be a positive integer value but the value passed is {value}{where}"
            )
    if r % n:
        raise ConfigError(
            f"r={r} is not a multiple of n_blocks={n}{where}: r is the total rank, n_blocks times the rank "
            f"of one block; use r={(r // n + 1) * n} or another n_blocks."
        )


def _check_choices(config: BlockLoraConfig) -> None:
    if config.bias not in _BIASES:
        raise ConfigError(f"bias={config.bias!r} is unknown; expected one of {', '.join(_BIASES)}.")
    if config.parametrization not in _PARAMETRIZATIONS:
        raise ConfigError(
            f"parametrization={config.parametrization!r} is unknown; "
            f"expected one of {', '.join(_PARAMETRIZATIONS)}."
        )
    if not isinstance(config.init_weights, bool) and config.init_weights != "gaussian":
        raise ConfigError(
            f"init_weights={config.init_weights!r} is unknown; expected True, False or 'gaussian'."
        )
    if config.arm_dropout and config.parametrization == "folded":
        raise ConfigError(
            "arm_dropout=True gives every block its own mask, but parametrization='folded' keeps only their "
            "sum; use parametrization='blocks'."
        )


def _check_numbers(config: BlockLoraConfig) -> None:
    _check_rank(config.r, config.n_blocks)
    if not 0 <= config.lora_dropout < 1:
        raise ConfigError(f"lora_dropout={config.lora_dropout} is outside [0, 1).")
    if not math.isfinite(config.lora_alpha):
        raise ConfigError(f"lora_alpha={config.lora_alpha} is not a finite number.")
