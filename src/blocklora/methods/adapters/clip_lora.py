"""CLIP-LoRA: plain LoRA in both towers of CLIP (Zanella & Ben Ayed, 2024), on PEFT's own LoRA."""

from __future__ import annotations

from dataclasses import replace

from peft import LoraConfig

from blocklora.classifier.text_side import TextSide
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.adapters.common import fit_adapter, target_pattern
from blocklora.methods.adapters.options import Options
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep

__all__ = ["fit"]


def fit(
    task: Task,
    clip: Clip,
    options: Options,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Fit LoRA; see ``Method``."""
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # PEFT says int and computes with any number
        lora_dropout=options.dropout,
        use_rslora=True,
        target_modules=target_pattern(options, clip),
    )
    fitted = fit_adapter(config, task, clip, options, seed, compute, checkpoint=checkpoint, on_step=on_step)
    return replace(fitted, text=TextSide())
