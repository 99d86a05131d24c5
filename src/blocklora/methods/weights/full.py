"""Full fine-tuning: every weight of both towers, on the class prompts.

Recipe: cross-entropy of scaled cosines over both towers, AdamW 1e-5 with weight decay 0.1 (the values of WiSE-FT,
Wortsman et al., 2022, for end-to-end fine-tuning of CLIP); steps, batches of 32, crops and cosine are CLIP-LoRA's.
There is no one published recipe for few shots: these settings are a starting point, not a result. The logit scale is
not trained. A classifier keeps its own copy of the whole image tower, as large as the model's.
"""

from __future__ import annotations

from dataclasses import dataclass

from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.task import Fitted, Task
from blocklora.methods.weights import layer_norm
from blocklora.methods.weights.own_weights import steps_of
from blocklora.training import Checkpoint, OnStep

__all__ = ["Settings", "fit"]


@dataclass(frozen=True)
class Settings(layer_norm.Settings):
    """How to train; the attributes are those of LayerNorm tuning, with 500 steps a shot."""

    lr: float = 1e-5
    weight_decay: float = 0.1


def fit(
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Train every weight; see ``Method``."""
    parameters = {name: value for name, value in clip.model.named_parameters() if name != "logit_scale"}
    steps = steps_of(task, options.iterations, 500)
    return layer_norm.fit_weights(
        parameters, steps, "WiSE-FT", task, clip, options, seed, compute, checkpoint, on_step
    )
