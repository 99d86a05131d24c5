"""Full fine-tuning: every weight of both towers, on the class prompts.

Recipe: cross-entropy of scaled cosines over both towers, AdamW 1e-5 with weight decay 0.1 (the values of WiSE-FT,
Wortsman et al., 2022, for end-to-end fine-tuning of CLIP); steps, batches of 32, crops and cosine are CLIP-LoRA's.
There is no one published recipe for few shots: these settings are a starting point, not a result. The logit scale is
not trained. A classifier keeps its own copy of the whole image tower, as large as the model's.
"""

from __future__ import annotations

from dataclasses import dataclass

from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.weights.own_weights import WeightSettings, fit_weights, trainable_view

__all__ = ["METHOD", "FullSettings", "fit"]

_STEPS_A_SHOT = 500


@dataclass(frozen=True)
class FullSettings(WeightSettings):
    """How to train; the attributes are those of LayerNorm tuning, with 500 steps a shot."""

    lr: float = 1e-5
    weight_decay: float = 0.1


def fit(job: Job, settings: FullSettings) -> FitResult:
    """Train every weight."""
    view = trainable_view(job)
    parameters = {name: value for name, value in view.named_parameters() if name != "logit_scale"}
    steps = job.task.steps(settings.iterations, _STEPS_A_SHOT)
    return fit_weights(job, settings, view, parameters, steps, "WiSE-FT")


METHOD = Method(fit, FullSettings, open=True, prompts="averaged")
