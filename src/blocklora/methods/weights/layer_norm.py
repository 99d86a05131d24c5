"""LayerNorm tuning: the weights and biases of every LayerNorm of both towers (2SFS's first stage, to the end).

Recipe (Farina et al., 2025): AdamW 2e-4 with weight decay 1e-2, batches of 32, 300 steps a shot, cosine; random crops
of 8% to 100% with mirror images; cross-entropy of scaled cosines with the class prompts.
Deviation: the cosine ends at 1e-6, as in CLIP-LoRA, from whose code 2SFS descends; whether theirs does was not checked.
"""

from __future__ import annotations

from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.weights.own_weights import WeightSettings, fit_weights, layer_norms, trainable_view

__all__ = ["METHOD", "fit"]

_STEPS_A_SHOT = 300


def fit(job: Job, settings: WeightSettings) -> FitResult:
    """Train the LayerNorms."""
    view = trainable_view(job)
    steps = job.task.steps(settings.iterations, _STEPS_A_SHOT)
    return fit_weights(job, settings, view, layer_norms(view), steps, "2SFS's first stage")


METHOD = Method(fit, WeightSettings, open=True, prompts="averaged")
