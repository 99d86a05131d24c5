"""Make Block-LoRA known to PEFT."""

from __future__ import annotations

from typing import Any

from peft import mapping

from blocklora.adapter.config import BlockLoraConfig, BlockLoraPeftType
from blocklora.adapter.model import BlockLoraModel

__all__ = ["register"]


def register() -> None:
    """Enter Block-LoRA into PEFT's three mappings. Doing it again changes nothing."""
    key: Any = BlockLoraPeftType.BLOCKLORA  # PEFT types its keys by its own closed enumeration
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[key] = BlockLoraConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[key] = BlockLoraModel
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[key] = BlockLoraModel.prefix
