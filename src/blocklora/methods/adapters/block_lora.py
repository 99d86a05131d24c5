"""Block-LoRA: LoRA whose factors are cut into blocks that share one down-projection (arXiv 2501.16720)."""

from __future__ import annotations

from dataclasses import replace

from blocklora.adapter import BlockLoraConfig
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
    fitted = fit_adapter(config, task, clip, options, seed, compute, checkpoint=checkpoint, on_step=on_step)
    return replace(fitted, text=TextSide())
