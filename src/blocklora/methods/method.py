"""What every method is given, and what it gives back.

Axes: N = classes, L = tokens of the longest prompt, D = the width of the space that the two towers share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from blocklora.classifier import (
    NOTHING_KEPT,
    Classifier,
    FeatureStore,
    Head,
    ImageChange,
    TextChange,
    cosine_head,
    mean_features,
)
from blocklora.clip import Clip, Engine
from blocklora.core.candidates import Candidate
from blocklora.core.choices import Choice, last_step
from blocklora.core.deadline import Deadline
from blocklora.core.device import Compute
from blocklora.core.resources import Resources
from blocklora.data import Example
from blocklora.methods.answers import HeldOut, OutOfFold
from blocklora.methods.bank import FeatureBank
from blocklora.training import (
    Batches,
    Checkpoint,
    Curve,
    OnExpected,
    OnStep,
    Pace,
    Steps,
    seconds_a_step,
    steps_in_time,
)

__all__ = [
    "EngineUse",
    "FitResult",
    "Job",
    "Method",
    "OnPart",
    "PromptUse",
    "Task",
    "last_step",
]

PromptUse = Literal["one", "trained with", "averaged"]
"""What a method makes of several prompts a class: it reads one alone; it trains with their mean; or it trains with one,
and the mean predicts."""

OnPart = Callable[[str], None]
"""Told what the progress from now on belongs to."""

MOST_SHOTS = 16
"""Recipes that say "so many steps a shot" mean at most so many shots."""


@dataclass(frozen=True)
class Task:
    """A few-shot classification task.

    Attributes:
        class_names: N names.
        prompts: N sentences, one a class.
        tokens: Their token ids (N, L).
        train: Readable labelled images.
        flip: Whether an image's mirror image is of the same class.
        val: Readable validation images, for methods that choose by them; often there are none.
        ensemble: Token ids (N, L) of every template where a class is the mean over several; empty: ``tokens`` alone.
    """

    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    tokens: Tensor
    train: tuple[Example, ...]
    flip: bool
    val: tuple[Example, ...] = ()
    ensemble: tuple[Tensor, ...] = ()

    @property
    def shots(self) -> int:
        """How many training images the largest class has."""
        return max(Counter(example.label for example in self.train).values())

    def steps(self, iterations: int | None, each_shot: int) -> int:
        """Return how many steps to train: as given, or so many for each shot, of which 16 count at most."""
        return iterations or each_shot * min(self.shots, MOST_SHOTS)


@dataclass(frozen=True)
class Job:
    """One fit: what is to be learned, from what, and where.

    Attributes:
        task: Classes, prompts and images.
        clip: The model, on the device; it is never changed.
        compute: Device and precision.
        seed: Where all randomness comes from.
        method: The method's name.
        store: Where features of the frozen model are kept.
        resources: Cores and memory to use; None: all that this process may use.
        checkpoint: Where the state is kept; a fit that finds it there goes on from it.
        on_step: Called with the progress of training.
        engine: Which engine computes features, for methods that let one choose.
        deadline: When everything is to be done; what it keeps back is for the evaluation. None: it takes as long as it
            takes.
        on_expected: Told before training how many seconds its steps will take.
        forward_seconds: Of one image through the frozen image tower, where ``on_expected`` is to be told; else 0.
        on_part: Told what the progress from now on belongs to, in a few words, by methods that fit several times.
        bank: Features in memory, where a method is fitted to several parts of the same images.
        start: Weights of an adapter of the same settings, by PEFT's names, that training goes on from; None: it starts
            anew. Methods without an adapter do not read it.
    """

    task: Task
    clip: Clip
    compute: Compute
    seed: int
    method: str
    store: FeatureStore = NOTHING_KEPT
    resources: Resources | None = None
    checkpoint: Checkpoint | None = None
    on_step: OnStep | None = None
    engine: Engine = "auto"
    deadline: Deadline | None = None
    on_expected: OnExpected | None = None
    forward_seconds: float = 0.0
    on_part: OnPart | None = None
    bank: FeatureBank | None = None
    start: Mapping[str, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.compute.device

    @cached_property
    def scale(self) -> float:
        """What cosines are multiplied by: the model's own logit scale."""
        return float(self.clip.model.logit_scale.detach().exp())

    @cached_property
    def written_classes(self) -> Tensor:
        """Unit class features (N, D) of the written prompts, on the CPU: the mean over an ensemble."""
        tokens = self.task.ensemble or (self.task.tokens,)
        return mean_features(self.clip.model, tokens, engine=self.engine, ranks=self.compute.ranks)

    def on_images(self, train: tuple[Example, ...], val: tuple[Example, ...], **changes: Any) -> Job:
        """Return the same job on some of its images; what is known of its classes is not computed again."""
        other = replace(self, task=replace(self.task, train=train, val=val), **changes)
        for name in ("scale", "written_classes"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    def steps_in_time(self, recipe: int, pace: Pace, *, whole: int = 1) -> Steps:
        """Return how many steps to train: those of the recipe, or fewer where the deadline leaves no time for them.

        Args:
            recipe: How many without a deadline.
            pace: How long a step takes; see ``pace``.
            whole: Steps of an epoch, where only whole epochs count.

        Raises:
            ConfigError: There is no time for a single step, or epoch.
        """
        return steps_in_time(
            recipe, pace, self.deadline, self.checkpoint, whole=whole, on_expected=self.on_expected
        )

    def pace(
        self,
        gradients: Callable[[int, Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        state: Mapping[str, Tensor],
    ) -> Pace:
        """Return how to time the steps of ``minimise``, which takes the same arguments."""
        return partial(seconds_a_step, gradients, optimizer, batches, self.compute, state, self.resources)

    def classifier(
        self,
        class_features: Tensor | None = None,
        *,
        head: Head | None = None,
        adapter: Any = None,
        image: ImageChange | None = None,
        text: TextChange | None = None,
    ) -> Classifier:
        """Return the classifier that a method learned.

        Args:
            class_features: Unit features (N, D) whose scaled cosines predict.
            head: What predicts instead.
            adapter: A ``PeftModel`` around a view of the model.
            image: What else was changed in the image tower.
            text: What was learned about class names in general; None where only these classes were learned.
        """
        if head is None:
            if class_features is None:
                raise ValueError("expected class features or a head")
            head = cosine_head(class_features.cpu(), self.scale)
        return Classifier(
            method=self.method,
            base=self.clip,
            class_names=self.task.class_names,
            prompts=self.task.prompts,
            head=head,
            zero_shot_features=self.written_classes,
            adapter=adapter,
            image=image or ImageChange(),
            text=text,
            engine=self.engine,
            precision=self.compute.precision,
        )


@dataclass(frozen=True)
class EngineUse:
    """How the towers were computed while training, and within what memory.

    Attributes:
        engine: ``lean`` or ``plain``.
        why_not_lean: In words; empty where lean.
        memory: The plan and what it needed, as JSON-ready values.
        micro_batch: Images that went through at a time.
    """

    engine: str
    why_not_lean: str
    memory: Mapping[str, Any]
    micro_batch: int


@dataclass(frozen=True)
class FitResult:
    """A classifier, and what the method did.

    Attributes:
        classifier: What was learned.
        trainable_parameters: How many parameters were trained.
        choices: How each setting and the kept step were chosen, by name.
        training: What the loop left behind; None where nothing was trained.
        engine: How the towers were computed; None where nothing was trained through them.
        notes: What happened on the way, in sentences.
        held_out: What sets the temperature where there are no validation images; None where nothing does.
        features: Unit features (M, D) of the training images as the classifier sees them, where the method has them.
        out_of_fold: What sets the temperature before everything else, of a method that was judged as a whole.
        candidates: What was tried, for a method that chooses among several; else nothing.
    """

    classifier: Classifier
    trainable_parameters: int
    choices: Mapping[str, Choice]
    training: Curve | None = None
    engine: EngineUse | None = None
    notes: tuple[str, ...] = ()
    held_out: HeldOut | None = None
    features: Tensor | None = None
    out_of_fold: OutOfFold | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Method:
    """One way to fit a classifier.

    Attributes:
        fit: Fits a job with settings of the type ``settings``.
        settings: A frozen dataclass with a default for every field.
        open: Whether the classifier can be asked about classes that it has not seen, by their names.
        prompts: What it makes of several prompts a class.
        families: The ``model_type`` of every model it works on; None: all.
        shares: Whether several processes can share its training.
        refits: Whether it is fitted to the plain features of the training images and nothing else, in seconds, so that
            features that were kept do.
    """

    fit: Callable[[Job, Any], FitResult]
    settings: type[Any]
    open: bool = False
    prompts: PromptUse = "one"
    families: Sequence[str] | None = None
    shares: bool = False
    refits: bool = False
