"""What every method is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from blocklora.clip import Clip
from blocklora.data import Example
from blocklora.methods.options import Options
from blocklora.training import Checkpoint, OnStep, Training

__all__ = ["Fitted", "Method", "Task"]


@dataclass(frozen=True)
class Task:
    """A few-shot classification task.

    Attributes:
        class_names: N names.
        prompts: N sentences, one a class.
        tokens: Their token ids (N, L).
        train: Readable labelled pictures.
        flip: Whether a picture's mirror image is of the same class.
    """

    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    tokens: torch.Tensor
    train: tuple[Example, ...]
    flip: bool


@dataclass(frozen=True)
class Fitted:
    """A classifier in the making.

    Attributes:
        model: The ``CLIPModel`` on its device, or a ``PeftModel`` around it.
        class_features: Unit features of the classes (N, D), on the CPU.
        trainable_parameters: How many numbers were trained.
        training: What the loop left behind; None where nothing was trained.
        selection: How the kept step and the settings were chosen, in words.
    """

    model: Any
    class_features: torch.Tensor
    trainable_parameters: int
    training: Training | None
    selection: dict[str, str]


class Method(Protocol):
    """One way to fit a classifier. ``clip.model`` is on the accelerator's device and may be changed."""

    def __call__(
        self,
        task: Task,
        clip: Clip,
        options: Options,
        seed: int,
        accelerator: Accelerator,
        *,
        checkpoint: Checkpoint | None = None,
        on_step: OnStep | None = None,
    ) -> Fitted:
        """Fit; ``checkpoint`` is where the state is kept, ``on_step`` is told of progress."""
        ...
