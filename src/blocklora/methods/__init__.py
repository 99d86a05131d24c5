"""The ways to turn a few labelled pictures into a classifier. One file a method, one line here."""

from blocklora.methods import block_lora, clip_lora, zero_shot
from blocklora.methods.options import Options
from blocklora.methods.task import Fitted, Method, Task

__all__ = ["METHODS", "Fitted", "Method", "Options", "Task"]

METHODS: dict[str, Method] = {
    "block-lora": block_lora.fit,
    "clip-lora": clip_lora.fit,
    "zero-shot": zero_shot.fit,
}
