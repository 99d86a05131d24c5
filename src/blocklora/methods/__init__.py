"""The ways to turn a few labelled pictures into a classifier. One file a method, one line here."""

from blocklora.methods.adapters import any_peft, block_lora, clip_lora
from blocklora.methods.adapters.options import Options
from blocklora.methods.frozen import (
    clip_adapter,
    linear_probe,
    lp_plus_plus,
    taskres,
    tip_adapter,
    tip_adapter_f,
    zero_shot,
    zero_shot_probe,
)
from blocklora.methods.prompts import cocoop, coop, kgcoop, maple, prograd, promptsrc
from blocklora.methods.settings import make_settings, parse_settings, settings_json, settings_type
from blocklora.methods.task import Fitted, Method, Task
from blocklora.methods.weights import full, layer_norm, two_stage

__all__ = [
    "CLOSED_METHODS",
    "ENSEMBLE_METHODS",
    "METHODS",
    "WRITTEN_METHODS",
    "Fitted",
    "Method",
    "Options",
    "Task",
    "make_settings",
    "parse_settings",
    "settings_json",
    "settings_type",
]

METHODS: dict[str, Method] = {
    "block-lora": block_lora.fit,
    "clip-lora": clip_lora.fit,
    "zero-shot": zero_shot.fit,
    "linear-probe": linear_probe.fit,
    "zero-shot-probe": zero_shot_probe.fit,
    "tip-adapter": tip_adapter.fit,
    "tip-adapter-f": tip_adapter_f.fit,
    "clip-adapter": clip_adapter.fit,
    "taskres": taskres.fit,
    "lp++": lp_plus_plus.fit,
    "layer-norm": layer_norm.fit,
    "2sfs": two_stage.fit,
    "full": full.fit,
    "peft": any_peft.fit,
    "coop": coop.fit,
    "kgcoop": kgcoop.fit,
    "prograd": prograd.fit,
    "cocoop": cocoop.fit,
    "maple": maple.fit,
    "promptsrc": promptsrc.fit,
}
"""Every method by its name. Its settings are the dataclass that its ``options`` are annotated with."""

CLOSED_METHODS = ("linear-probe", "lp++", "taskres", "tip-adapter", "tip-adapter-f", "zero-shot-probe")
"""Methods that learn the classes that they see and know no others."""

ENSEMBLE_METHODS = ("block-lora", "clip-adapter", "clip-lora", "full", "layer-norm", "peft", "zero-shot")
"""Methods whose classes are what the text tower, as trained, makes of prompts: also of the mean of several."""

WRITTEN_METHODS = (
    "kgcoop", "lp++", "prograd", "promptsrc", "taskres", "tip-adapter", "tip-adapter-f", "zero-shot-probe",
)  # fmt: skip
"""Methods that build on the class features of hand-written prompts, ``Task.ensemble``, while they train."""
