"""The facts of a training step that is planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from blocklora.training.memory.planner import Need

__all__ = ["CutPlan", "Peak", "StepPlan"]


@dataclass(frozen=True)
class Peak:
    """What a way to train needs.

    Attributes:
        peak_bytes: The most memory in use during a step: of the process, or of tensors on a CUDA GPU.
        need: Operations, and bytes of a step alone.
    """

    peak_bytes: int
    need: Need

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts as a JSON object."""
        return {"peak_bytes": self.peak_bytes, **asdict(self.need)}


@dataclass(frozen=True)
class CutPlan(Peak):
    """A way to cut the step.

    Attributes:
        plan: It in words.
    """

    plan: str

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts as a JSON object."""
        return {"plan": self.plan, **super().to_json()}


@dataclass(frozen=True)
class StepPlan:
    """How a training step fits into memory.

    Attributes:
        model: As it was named.
        device: The kind of device.
        classes: How many.
        batch_size: Images a step.
        bytes_a_number: Of activations: 4 or 2.
        trained_numbers: Trainable parameters.
        limit_bytes: The most memory to use.
        weights_bytes: Of the frozen model.
        before_bytes: In use before the first step.
        plans: The plan to take, then ever smaller ones for when memory runs out.
        clip_lora: What CLIP-LoRA's code would need.
        peft_lora: What plain PEFT would need.
        views: Fixed views of an image whose lower blocks run once; 0 where crops are new in every step.
        views_bytes: What they take, in memory or, where they do not fit, on disk.
        processes: How many share a step; memory, operations and plans are those of one of them.
        own_images: Images of a step that it has, at most.
        own_classes: Classes that it has, as the first one; the others have about as many tokens.
        exchanged_bytes: What it gets from the others, or adds up with them, in a step.
    """

    model: str
    device: str
    classes: int
    batch_size: int
    bytes_a_number: int
    trained_numbers: int
    limit_bytes: int
    weights_bytes: int
    before_bytes: int
    plans: tuple[CutPlan, ...]
    clip_lora: Peak
    peft_lora: Peak
    views: int = 0
    views_bytes: int = 0
    processes: int = 1
    own_images: int = 0
    own_classes: int = 0
    exchanged_bytes: int = 0

    @property
    def chosen(self) -> CutPlan:
        """The plan to take."""
        return self.plans[0]

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts as a JSON object; those of the chosen plan stand at its top."""
        inner = ("plans", "clip_lora", "peft_lora")
        return {
            **{name: value for name, value in vars(self).items() if name not in inner},
            **self.chosen.to_json(),
            "smaller_plans": [plan.to_json() for plan in self.plans[1:]],
            "clip_lora": self.clip_lora.to_json(),
            "peft_lora": self.peft_lora.to_json(),
        }
