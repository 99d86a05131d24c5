"""Which of PEFT's configurations leave the base model's weights alone: read from PEFT 0.21's source, and tested."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PeftType

__all__ = ["INITS_BESIDE_THE_BASE", "base_weight_changes", "changes_base"]

INITS_BESIDE_THE_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""The starts of a LoRA that leave the base weights as they are; all others change them."""

_BESIDE_THE_BASE = frozenset(
    "ADALORA ADAMSS BEFT BLOCKLORA BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LILY LN_TUNING "
    "LOHA LOKR LORA MISS OFT OSF PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA "
    "VBLORA VERA WAVEFT".split()
)
_DATA_PASS = "needs a pass over training data before the adapter is made, which blocklora does not do"
_REASONS = {
    "eva": _DATA_PASS,
    "corda": _DATA_PASS,
    "lora_ga": _DATA_PASS,
    "loftq": "replaces the base model's weights by quantised ones",
    "pissa_niter_": (
        "splits the base model's weights with a random method, which gives other weights when the adapter is loaded"
    ),
}


def base_weight_changes(config: PeftConfig) -> str | None:
    """Say why an adapter of this configuration cannot be made from the base model and the file alone.

    Args:
        config: Any configuration of PEFT.

    Returns:
        A sentence: the adapter needs a pass over data first, or weights of the base model that cannot be made
        again. None where it can be made; see ``changes_base`` then.
    """
    if config.peft_type != PeftType.LORA:
        return None
    init = str(_option(config, "init_lora_weights"))
    for start, reason in _REASONS.items():
        if init.lower().startswith(start):
            return f"init_lora_weights='{init}' {reason}; expected True, 'gaussian', 'orthogonal', 'pissa' or 'olora'."
    return None


def changes_base(config: PeftConfig) -> bool:
    """Return whether an adapter of this configuration changes the base model's own weights.

    It does so at the start (PiSSA, OLoRA, KaSA) or in training (``bias``), always in the same way, so that an adapter
    on a copy of the base model does no harm. True also for what is not known to leave them alone.

    Args:
        config: Any configuration of PEFT.
    """
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind not in _BESIDE_THE_BASE or _option(config, "bias") not in (None, "none"):
        return True
    if config.peft_type != PeftType.LORA:
        return False
    init = _option(config, "init_lora_weights")
    return init not in INITS_BESIDE_THE_BASE or _option(config, "kasa_config") is not None


def _option(config: PeftConfig, name: str) -> Any:
    """Return a setting that not every type has."""
    return getattr(config, name, None)
