"""CLIP-LoRA: plain LoRA in both towers of CLIP (Zanella & Ben Ayed, 2024), on PEFT's own LoRA."""

from __future__ import annotations

from peft import LoraConfig

from blocklora.methods.adapters.common import fit_adapter, target_pattern
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.method import FitResult, Job, Method

__all__ = ["METHOD", "fit"]


def fit(job: Job, settings: AdapterSettings) -> FitResult:
    """Fit LoRA."""
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT says int and computes with any number
        lora_dropout=settings.dropout,
        use_rslora=True,
        target_modules=target_pattern(settings, job.clip),
    )
    return fit_adapter(job, settings, config)


METHOD = Method(fit, AdapterSettings, open=True, prompts="averaged", shares=True)
