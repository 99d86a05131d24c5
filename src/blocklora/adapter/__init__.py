"""Block-LoRA as a PEFT method: importing this package makes it known to PEFT, and changes nothing else."""

from __future__ import annotations

from blocklora.adapter._versions import check_peft_version
from blocklora.adapter.base_weights import base_weight_changes, changes_base
from blocklora.adapter.config import BlockLoraConfig, BlockLoraPeftType
from blocklora.adapter.fold import fold_to_lora, unfold_lora
from blocklora.adapter.groups import param_groups
from blocklora.adapter.layer import BlockLoraLinear
from blocklora.adapter.model import BlockLoraModel
from blocklora.adapter.read import load_adapter
from blocklora.adapter.registration import register
from blocklora.adapter.theory import generalization_bound, trained_numbers

__all__ = [
    "BlockLoraConfig",
    "BlockLoraLinear",
    "BlockLoraModel",
    "BlockLoraPeftType",
    "base_weight_changes",
    "changes_base",
    "check_peft_version",
    "fold_to_lora",
    "generalization_bound",
    "load_adapter",
    "param_groups",
    "register",
    "trained_numbers",
    "unfold_lora",
]

register()
