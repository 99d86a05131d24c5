"""Zero-shot: CLIP as it is, from the class names alone (Radford et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora.classifier.text_side import TextSide
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.frozen.on_features import written_classes
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep

__all__ = ["Settings", "fit"]


@dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


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
    """Compute the class features; nothing is trained. See ``Method``."""
    return Fitted(
        model=clip.model,
        class_features=written_classes(task, clip),
        trainable_parameters=0,
        training=None,
        selection={"settings": "nothing was trained or chosen"},
        text=TextSide(),
    )
