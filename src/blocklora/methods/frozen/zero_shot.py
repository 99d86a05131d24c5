"""Zero-shot: CLIP as it is, from the class names alone (Radford et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora.classifier import TextChange
from blocklora.core.choices import Choice
from blocklora.methods.method import FitResult, Job, Method

__all__ = ["METHOD", "ZeroShotSettings", "fit"]


@dataclass(frozen=True)
class ZeroShotSettings:
    """There is nothing to set."""


def fit(job: Job, settings: ZeroShotSettings) -> FitResult:
    """Compute the class features; nothing is trained."""
    classifier = job.classifier(job.written_classes, text=TextChange())
    return FitResult(classifier, 0, {"settings": Choice("none", "fixed", "nothing was trained or chosen")})


METHOD = Method(fit, ZeroShotSettings, open=True, prompts="averaged")
