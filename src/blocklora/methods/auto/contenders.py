"""What ``auto`` tries: methods on frozen features, cheapest first, and Block-LoRA with a few settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from blocklora.classifier import cosine_head, mean_features
from blocklora.clip import TINY, Clip
from blocklora.methods.adapters import block_lora
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.frozen import (
    gda,
    linear_probe,
    lp_plus_plus,
    proker,
    prolip,
    prototypes,
    taskres,
    tip_adapter,
    tip_adapter_f,
    zero_shot,
    zero_shot_probe,
)
from blocklora.methods.held_out.judging import Contender
from blocklora.methods.method import FitResult, Job, Method
from blocklora.training.images import Augment

__all__ = ["FROZEN", "OnFeatures", "adapter_settings", "adapters", "frozen"]


@dataclass(frozen=True)
class OnFeatures:
    """A method on frozen features.

    Attributes:
        method: The method.
        crops: Which augmented views it reads: those of the same name are computed once for all.
        passes: How many of them an image.
        most: The most of training images x classes that it is tried with; its time or memory grows fast.
    """

    method: Method
    crops: str = ""
    passes: int = 0
    most: int = 10**9


FROZEN: Mapping[str, OnFeatures] = {
    "zero-shot": OnFeatures(zero_shot.METHOD),
    "prototypes": OnFeatures(prototypes.METHOD),
    "gda": OnFeatures(gda.METHOD),
    "proker": OnFeatures(proker.METHOD, most=2 * 10**6),
    "linear-probe": OnFeatures(linear_probe.METHOD, most=5 * 10**4),
    "lp++": OnFeatures(lp_plus_plus.METHOD, "half", 1),
    "tip-adapter": OnFeatures(tip_adapter.METHOD, "half", 10),
    "tip-adapter-f": OnFeatures(tip_adapter_f.METHOD, "half", 10),
    "prolip": OnFeatures(prolip.METHOD, "projection", 10),
    "taskres": OnFeatures(taskres.METHOD, "small", 10),
    "zero-shot-probe": OnFeatures(zero_shot_probe.METHOD, "small", 20),
}
"""Cheapest first: of equals the earlier one is kept. All come before Block-LoRA."""


def frozen(name: str, augment: Augment | None) -> Contender:
    """Return a method on frozen features with its own defaults."""
    known = FROZEN[name]
    given = {"augment": augment} if augment and known.passes else {}
    key = name.replace("+", "p")
    return Contender(
        key, name, known.method.fit, known.method.settings(**given), given, adapts=name == "prolip"
    )


def adapter_settings(clip: Clip) -> list[Mapping[str, Any]]:
    """Return settings of Block-LoRA, the most promising first; those not named are the method's own.

    Training is short, so rank and learning rate are higher, and dropout lower, than in the published recipe.
    """
    usual, other = (4e-3, 1e-3) if clip.model_id == TINY else (1e-3, 2e-4)
    shape = {"r": 4, "n_blocks": 4, "dropout": 0.1}
    half = f"top-{max(1, max(clip.depths.values()) // 2)}"
    return [
        {**shape, "lr": usual, "towers": "both", "layers": "all"},
        {**shape, "lr": other, "towers": "both", "layers": "all"},
        {**shape, "lr": usual, "towers": "vision", "layers": "all"},
        {**shape, "lr": usual, "towers": "both", "layers": half},
    ]


def adapters(chosen: list[Mapping[str, Any]], fixed: Mapping[str, Any]) -> list[Contender]:
    """Return Block-LoRA with each of some settings, and others that all have."""
    return [
        Contender(
            f"block-lora-{place}",
            "block-lora",
            _with_templates(block_lora.fit),
            block_lora.BlockLoraSettings(**given, **fixed),
            {**given, **{name: value for name, value in fixed.items() if value is not None}},
            adapts=True,
            trains_towers=True,
        )
        for place, given in enumerate(chosen, 1)
    ]


def _with_templates(fit: Callable[[Job, Any], FitResult]) -> Callable[[Job, AdapterSettings], FitResult]:
    """Let the mean over several templates predict, where there are several: the adapted text tower reads them all."""

    def fit_then_average(job: Job, settings: AdapterSettings) -> FitResult:
        result = fit(job, settings)
        if not job.task.ensemble:
            return result
        model = result.classifier.adapter.get_base_model()
        classes = mean_features(model, job.task.ensemble, engine=job.engine)
        head = cosine_head(classes.cpu(), job.scale)
        return replace(result, classifier=replace(result.classifier, head=head))

    return fit_then_average
