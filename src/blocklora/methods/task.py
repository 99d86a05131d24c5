"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from blocklora.classifier.heads import Head
from blocklora.classifier.text_side import TextSide
from blocklora.classifier.tower import TowerChange
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.data import Example
from blocklora.training import Checkpoint, OnStep
from blocklora.training.minimise import Curve

__all__ = ["Fitted", "Method", "Task", "fixed_beforehand"]


@dataclass(frozen=True)
class Task:
    """A few-shot classification task.

    Attributes:
        class_names: N names.
        prompts: N sentences, one a class.
        tokens: Their token ids (N, L).
        train: Readable labelled pictures.
        flip: Whether a picture's mirror image is of the same class.
        val: Readable validation pictures, for methods that choose by them; often there are none.
        ensemble: Token ids (N, L) of every template where a class is the mean over several; empty: ``tokens`` alone.
    """

    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    tokens: torch.Tensor
    train: tuple[Example, ...]
    flip: bool
    val: tuple[Example, ...] = ()
    ensemble: tuple[torch.Tensor, ...] = ()

    @property
    def shots(self) -> int:
        """How many training pictures the largest class has."""
        return max(Counter(example.label for example in self.train).values())


@dataclass(frozen=True)
class Fitted:
    """A classifier in the making.

    Attributes:
        model: The ``CLIPModel`` on its device, or a ``PeftModel`` around it.
        class_features: Unit features of the classes (N, D), on the CPU.
        trainable_parameters: How many numbers were trained.
        training: What the loop left behind; None where nothing was trained.
        selection: How the kept step and the settings were chosen, in words.
        head: What turns image features into logits; None is scaled cosines with ``class_features``.
        tower: What was changed in the image tower, beside an adapter.
        engine: How the towers were computed, and within what memory, as JSON-ready values; empty where nothing was
            trained through them.
        notes: What happened on the way, in sentences.
        text: What was learned about class names in general; None where only these classes were learned.
    """

    model: Any
    class_features: torch.Tensor
    trainable_parameters: int
    training: Curve | None
    selection: dict[str, str]
    head: Head | None = None
    tower: TowerChange = field(default_factory=TowerChange)
    engine: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    text: TextSide | None = None


def fixed_beforehand(steps: int, recipe: str) -> dict[str, str]:
    """Return how things were selected where nothing was: the last step is kept, ``recipe`` names the settings."""
    return {
        "kept step": f"the last of {steps}, fixed beforehand; no step was chosen by accuracy",
        "settings": f"fixed beforehand: the published recipe of {recipe}, or what was given",
    }


class Method(Protocol):
    """One way to fit a classifier. ``clip.model`` is on the compute's device.

    A method's settings are the dataclass that its ``options`` are annotated with. It may put an adapter into
    ``clip.model`` but leaves its weights as they were: changed ones go into ``Fitted.tower``.
    """

    def __call__(
        self,
        task: Task,
        clip: Clip,
        options: Any,
        seed: int,
        compute: Compute,
        *,
        checkpoint: Checkpoint | None = None,
        on_step: OnStep | None = None,
    ) -> Fitted:
        """Fit; ``checkpoint`` is where the state is kept, ``on_step`` is told of progress."""
        ...
