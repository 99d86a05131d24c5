"""Every method by its name."""

from __future__ import annotations

from typing import Any

from blocklora.core.errors import ConfigError
from blocklora.core.ranks import Ranks
from blocklora.core.words import did_you_mean
from blocklora.methods.adapters import any_peft, block_lora, block_lora_gda, clip_lora
from blocklora.methods.auto import auto
from blocklora.methods.frozen import (
    clip_adapter,
    gda,
    linear_probe,
    lp_plus_plus,
    proker,
    prolip,
    prototypes,
    taskres,
    tip_adapter,
    tip_adapter_f,
    zero_shot,
    zero_shot_probe,
)
from blocklora.methods.method import Method
from blocklora.methods.prompts import cocoop, coop, kgcoop, maple, prograd, promptsrc
from blocklora.methods.weights import full, layer_norm, two_stage

__all__ = ["METHODS", "check_shares", "find_method"]

METHODS: dict[str, Method] = {
    "block-lora": block_lora.METHOD,
    "block-lora-gda": block_lora_gda.METHOD,
    "auto": auto.METHOD,
    "clip-lora": clip_lora.METHOD,
    "zero-shot": zero_shot.METHOD,
    "linear-probe": linear_probe.METHOD,
    "zero-shot-probe": zero_shot_probe.METHOD,
    "tip-adapter": tip_adapter.METHOD,
    "tip-adapter-f": tip_adapter_f.METHOD,
    "clip-adapter": clip_adapter.METHOD,
    "taskres": taskres.METHOD,
    "lp++": lp_plus_plus.METHOD,
    "prototypes": prototypes.METHOD,
    "gda": gda.METHOD,
    "proker": proker.METHOD,
    "prolip": prolip.METHOD,
    "layer-norm": layer_norm.METHOD,
    "2sfs": two_stage.METHOD,
    "full": full.METHOD,
    "peft": any_peft.METHOD,
    "coop": coop.METHOD,
    "kgcoop": kgcoop.METHOD,
    "prograd": prograd.METHOD,
    "cocoop": cocoop.METHOD,
    "maple": maple.METHOD,
    "promptsrc": promptsrc.METHOD,
}
"""One file a method, one line here. A method of your own is one more entry."""


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        ConfigError: There is no such method.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(
            f"method '{name}': expected one of {', '.join(METHODS)}{did_you_mean(str(name), METHODS)}."
        )
    return METHODS[name]


def check_shares(name: str, settings: Any, time_limit: float | None, ranks: Ranks) -> None:
    """Check that a fit can be shared among the processes that there are.

    Args:
        name: The method.
        settings: Its settings.
        time_limit: Seconds that the fit may take; None: as long as it takes.
        ranks: The processes.

    Raises:
        ConfigError: It cannot; the message says what can.
    """
    if ranks.count == 1:
        return
    if not find_method(name).shares:
        able = ", ".join(other for other, method in METHODS.items() if method.shares)
        raise ConfigError(
            f"method '{name}': trains in one process, and {ranks.count} were started; start it without torchrun, or "
            f"take one of {able}."
        )
    alone = {"time_limit": time_limit, "cached_views": getattr(settings, "cached_views", None)}
    for option, value in alone.items():
        if value is not None:
            raise ConfigError(
                f"{option} '{value}': is for one process, and {ranks.count} were started; leave it out, or start it "
                "without torchrun."
            )
