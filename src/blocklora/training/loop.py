"""Training an adapter in CLIP's towers: images and class prompts in, an adapter that tells the classes apart out.

Axes: B = images of a batch, M = all training images, N = classes, L = tokens of the longest prompt, D = the
width of the shared space.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blocklora.clip.towers import LeanTowers, Towers, trains
from blocklora.core.device import Compute, out_of_memory
from blocklora.core.ranks import Ranks
from blocklora.core.resources import Resources
from blocklora.core.schedules import step_cosine
from blocklora.training.checkpoint import Checkpoint
from blocklora.training.distributed import add_gradients
from blocklora.training.images import TrainingImages
from blocklora.training.minimise import Batches, Curve, OnStep, minimise
from blocklora.training.pace import InTime, all_steps, seconds_a_step
from blocklora.training.step import ClassFeatures, Plan, gradient
from blocklora.training.views import EncodedViews, FixedViews

__all__ = ["Training", "train"]

_LOG = logging.getLogger(__name__)
_LAST_LR = 1e-6  # where the cosine ends
_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Training(Curve):
    """How a training run went.

    Attributes:
        plan: How the last step was cut.
        notes: What happened on the way, in sentences.
    """

    plan: Plan
    notes: tuple[str, ...]


def train(
    towers: Towers,
    groups: Sequence[Mapping[str, Any]],
    tokens: Tensor,
    images: TrainingImages | FixedViews,
    compute: Compute,
    *,
    iterations: int,
    lr: float,
    seed: int,
    plans: Sequence[Plan] = (Plan(),),
    checkpoint: Checkpoint | None = None,
    save_seconds: float | None = None,
    on_step: OnStep | None = None,
    resources: Resources | None = None,
    in_time: InTime = all_steps,
) -> Training:
    """Minimise the cross-entropy of scaled cosines over the model's trainable parameters, by AdamW.

    Args:
        towers: A model on the compute's device, with an adapter in its layers.
        groups: Parameter groups for AdamW, with their learning rates and weight decays.
        tokens: Token ids of the class prompts (N, L).
        images: The batches; of fixed views, what is frozen below the first adapter is computed once.
        compute: Device and precision.
        iterations: Steps in all, or fewer where ``in_time`` says so.
        lr: The learning rate that the schedule's end, 1e-6, refers to.
        seed: Where the dropout masks come from.
        plans: How a step is cut; the later ones are for when memory runs out. A run that is started again keeps the
            plans of its first start, since steps that are cut otherwise draw other dropout masks.
        checkpoint: Where to keep the state; if it is there already, the run goes on from it, by its plan.
        save_seconds: How often to keep it; see ``minimise``.
        on_step: Progress callback, called a few times a second.
        resources: Cores for reading images ahead; None is all that this process may use.
        in_time: Says how many steps there is time for.

    Raises:
        ConfigError: The loss is no longer a number, there is no time for a step, or the caller is in inference mode.
        RunError: The checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: Ctrl-C; the checkpoint has been written.
    """
    model = towers.model
    with compute.training(), _own_random_stream(compute.device):
        _training_mode(model)
        plans = _first_plans(checkpoint, plans, compute.ranks)
        gradients = _Gradients(towers, tokens, images, plans, compute, seed)
        optimizer = torch.optim.AdamW([dict(group) for group in groups], betas=_BETAS)
        batches = _batches(towers, images, plans[0], compute.ranks)
        state = {name: value for name, value in model.named_parameters() if value.requires_grad}
        pace = partial(seconds_a_step, gradients, optimizer, batches, compute, state, resources)
        steps = in_time(iterations, pace)
        factor = step_cosine(steps.number, last=min(_LAST_LR / lr, 1.0))
        curve = minimise(
            gradients, optimizer, factor, batches, compute, steps=steps, state=state, checkpoint=checkpoint,
            save_seconds=save_seconds, remember=gradients, on_step=on_step, resources=resources,
        )  # fmt: skip
    model.eval()
    return Training(**vars(curve), plan=gradients.plan, notes=tuple(gradients.notes))


def _training_mode(model: Any) -> None:
    """Put the model into training mode, but for a tower that is not trained: it drops nothing."""
    model.train()
    for tower in (model.vision_model, model.text_model):
        if not trains(tower):
            tower.eval()


def _batches(towers: Towers, images: TrainingImages | FixedViews, plan: Plan, ranks: Ranks) -> Batches:
    """Return the images; or their features, where neither they nor the image tower ever change.

    Of fixed views, what goes into the first trained block; their features, where none is trained.
    """
    size = plan.micro_batch or images.batch_size
    if isinstance(images, FixedViews):
        encode: Callable[[Tensor], Tensor] = torch.no_grad()(towers.images)
        if trains(towers.model.vision_model) and isinstance(towers, LeanTowers):
            encode = towers.images_before
        return EncodedViews(images, encode, size, next(towers.model.parameters()).device)
    if trains(towers.model.vision_model) or not images.fixed:
        return images
    return _Features(towers, images, size, ranks)


def _first_plans(checkpoint: Checkpoint | None, plans: Sequence[Plan], ranks: Ranks) -> tuple[Plan, ...]:
    """Return the plans of a run's first start, which are these unless it was started before."""
    if checkpoint is None:
        return tuple(plans)
    kept = ranks.on_first(lambda: checkpoint.first_start("plans", lambda: [asdict(plan) for plan in plans]))
    first = tuple(Plan(**values) for values in kept)
    if first[0] != plans[0]:
        _LOG.info(
            "this run goes on by the plan of its first start: %s (a new run would take %s)",
            first[0],
            plans[0],
        )
    return first


class _Gradients:
    """The gradient of every step, under the first plan that fits into memory."""

    def __init__(
        self,
        towers: Towers,
        tokens: Tensor,
        images: TrainingImages | FixedViews,
        plans: Sequence[Plan],
        compute: Compute,
        seed: int,
    ) -> None:
        self.plan, *self._spare = self._plans = tuple(plans)
        self.notes: list[str] = []
        self._towers, self._tokens, self._seed = towers, tokens, seed
        self._images = images.images if isinstance(images, FixedViews) else images
        self._backward, self._ranks = compute.backward, compute.ranks
        self._parameters = [value for value in towers.model.parameters() if value.requires_grad]
        self._scale = towers.model.logit_scale.detach().exp()
        self._trained = trains(towers.model.text_model)
        self._text = self._classes()

    def __call__(self, step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute a step's gradient, and return its loss; out of memory, go over to the next plan and try again.

        Several ranks cannot: the others would be in the middle of the step.
        """
        while True:
            try:
                loss = gradient(
                    self._towers, inputs, labels, self._text, self._scale, self.plan, self._backward,
                    seed=self._seed, step=step, of=len(self._images.indices(step)),
                )  # fmt: skip
                return add_gradients(self._parameters, loss, self._ranks)
            except RuntimeError as error:
                if not (out_of_memory(error) and self._spare) or self._ranks.count > 1:
                    raise
            for parameter in self._towers.model.parameters():
                parameter.grad = None
            if inputs.is_cuda:
                torch.cuda.empty_cache()
            self.plan = self._spare.pop(0)
            self.notes.append(f"memory ran out at step {step + 1}; it went on like this: {self.plan}")
            _LOG.warning(self.notes[-1])
            self._text = self._classes()

    def dump(self) -> Mapping[str, Any]:
        """Return the plan and the notes, as JSON-ready values."""
        return asdict(self.plan) | {"notes": self.notes}

    def load(self, values: Mapping[str, Any]) -> None:
        """Go back to a plan; what lies before it among the plans has failed already."""
        self.notes = list(values["notes"])
        self.plan = Plan(**{name: value for name, value in values.items() if name != "notes"})
        if self.plan in self._plans:
            self._spare = list(self._plans[self._plans.index(self.plan) + 1 :])
        self._text = self._classes()

    def _classes(self) -> ClassFeatures:
        return ClassFeatures(
            self._towers, self._tokens, trained=self._trained, plan=self.plan, ranks=self._ranks
        )


class _Features:
    """Batches of the features of images that never change, encoded ``size`` at a time by a tower not trained."""

    def __init__(self, towers: Towers, images: TrainingImages, size: int, ranks: Ranks) -> None:
        self._images = images
        device = next(towers.model.parameters()).device
        with torch.no_grad():
            parts = [towers.images(part.to(device)) for part in images.all_pixels(size)]
        self._features = ranks.gather(torch.cat(parts) if parts else torch.empty(0, 0))  # (M, D)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and labels (B,)."""
        return self._features[self._images.own_indices(step)], self._images.labels(step)


@contextmanager
def _own_random_stream(device: torch.device) -> Iterator[None]:
    """Seed torch inside, and leave the caller's random state as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
