"""Block-LoRA: LoRA whose factors are cut into blocks that share one down-projection (arXiv 2501.16720)."""

from __future__ import annotations

from dataclasses import replace

from accelerate import Accelerator

from blocklora.adapter import BlockLoraConfig
from blocklora.clip import Clip
from blocklora.methods.adapters import fit_adapter, target_pattern
from blocklora.methods.options import Options
from blocklora.methods.task import Fitted, Task
from blocklora.methods.text_side import TextSide
from blocklora.training import Checkpoint, OnStep

__all__ = ["fit"]


def fit(
    task: Task,
    clip: Clip,
    options: Options,
    seed: int,
    accelerator: Accelerator,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Fit Block-LoRA; see ``Method``."""
    config = BlockLoraConfig(
        r=options.r,
        n_blocks=options.n_blocks,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=True,
        parametrization=options.parametrization,
        arm_dropout=options.arm_dropout,
        target_modules=target_pattern(options, clip),
    )
    fitted = fit_adapter(
        config, task, clip, options, seed, accelerator, checkpoint=checkpoint, on_step=on_step
    )
    return replace(fitted, text=TextSide())
