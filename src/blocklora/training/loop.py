"""The training loop: pictures and class prompts in, an adapter that tells the classes apart out.

Axes: M = all training pictures, N = classes, L = tokens of the longest prompt, D = the width of the shared space.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from blocklora.clip.features import read_ahead
from blocklora.clip.towers import Towers, trains
from blocklora.errors import ConfigError
from blocklora.training.checkpoint import Checkpoint
from blocklora.training.pictures import TrainingPictures
from blocklora.training.step import Plan, TextSide, gradient

__all__ = ["OnStep", "Training", "cosine", "train"]

OnStep = Callable[[int, int, float, float], None]
"""Told a step, how many there are, its loss and its learning rate."""

_LAST_LR = 1e-6  # where the cosine ends
_BETAS = (0.9, 0.999)
_SHOW_SECONDS = 0.2
_ENCODED = 64  # pictures that are encoded at a time, where their features are kept


@dataclass(frozen=True)
class Training:
    """What a training run leaves behind, beside the trained parameters in the model.

    Attributes:
        losses: The cross-entropy of every step, (steps,), float64 on the CPU.
        lr: The learning rate.
        seconds: Time in the loop, that before an interruption included.
        plan: How the last step was cut.
        notes: What happened on the way, in sentences.
    """

    losses: torch.Tensor
    lr: float
    seconds: float
    plan: Plan
    notes: tuple[str, ...]

    def history(self, points: int = 200) -> list[dict[str, float]]:
        """Return up to about ``points`` rows of step, mean loss since the last row, and learning rate."""
        steps = len(self.losses)
        width = max(1, math.ceil(steps / points))
        return [
            {
                "step": min(start + width, steps),
                "loss": float(self.losses[start : start + width].mean()),
                "lr": self.lr * cosine(start, steps, self.lr),
            }
            for start in range(0, steps, width)
        ]


def cosine(step: int, steps: int, lr: float) -> float:
    """Return the factor on the learning rate at a step: half a cosine from 1 down to 1e-6 / ``lr``."""
    last = min(_LAST_LR / lr, 1.0)
    return last + (1 - last) * (1 + math.cos(math.pi * step / steps)) / 2


def train(
    towers: Towers,
    groups: list[dict[str, Any]],
    tokens: Tensor,
    pictures: TrainingPictures,
    accelerator: Accelerator,
    *,
    iterations: int,
    lr: float,
    seed: int,
    plans: Sequence[Plan] = (Plan(),),
    checkpoint: Checkpoint | None = None,
    save_seconds: float = 20.0,
    on_step: OnStep | None = None,
) -> Training:
    """Minimise the cross-entropy of scaled cosines over the model's trainable parameters, by AdamW.

    Args:
        towers: A model on the accelerator's device, with an adapter in its layers.
        groups: Parameter groups for AdamW, with their learning rates and weight decays.
        tokens: Token ids of the class prompts (N, L).
        pictures: The batches.
        accelerator: Device and precision.
        iterations: Steps in all.
        lr: The learning rate that the schedule's end, 1e-6, refers to.
        seed: Where the dropout masks come from.
        plans: How a step is cut; the later ones are for when memory runs out.
        checkpoint: Where to keep the state; if it is there already, the run goes on from it, with its plan.
        save_seconds: How often to keep it. It is also kept when Ctrl-C stops the run between two steps.
        on_step: Told of progress a few times a second.

    Raises:
        ConfigError: The loss is no longer a number.
        RunError: The checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: Ctrl-C; the checkpoint has been written.
    """
    device = accelerator.device
    state = _State(towers.model, groups, accelerator, iterations, lr, checkpoint)
    start, seconds, plan = state.restore()
    optimizer = accelerator.prepare_optimizer(state.optimizer)
    towers.model.train()
    began = saved = time.monotonic()
    shown = -math.inf  # the first step is always shown
    with _own_random_stream(device), _stop_between_steps() as stop:
        step_gradient = _Steps(towers, tokens, plans if plan is None else (plan, *plans), accelerator, seed)
        batches = read_ahead(_inputs(towers, pictures), range(start, iterations), ahead=3, workers=2)
        for step, (inputs, labels) in enumerate(batches, start):
            state.losses[step] = step_gradient(inputs.to(device), labels.to(device), step)
            optimizer.step()
            optimizer.zero_grad()
            now, last = time.monotonic(), step + 1 == iterations
            show = last or now - shown >= _SHOW_SECONDS
            keep = last or stop.is_set() or now - saved >= save_seconds
            if show or keep:
                value = _finite(float(state.losses[step]), step + 1)
            if show and on_step:
                on_step(step + 1, iterations, value, float(state.scheduler.get_last_lr()[0]))
            shown = now if show else shown
            state.scheduler.step()
            if keep or stop.is_set():
                saved = now
                state.save(step + 1, seconds + now - began, step_gradient.plan)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {iterations}")
    towers.model.eval()
    elapsed = seconds + time.monotonic() - began
    return Training(state.losses.cpu().double(), lr, elapsed, step_gradient.plan, tuple(step_gradient.notes))


class _Steps:
    """The gradient of every step, under the first plan that fits into memory."""

    def __init__(
        self, towers: Towers, tokens: Tensor, plans: Sequence[Plan], accelerator: Accelerator, seed: int
    ) -> None:
        self.plan, *self._spare = plans
        self.notes: list[str] = []
        self._towers, self._tokens, self._seed = towers, tokens, seed
        self._backward = accelerator.backward
        self._scale = towers.model.logit_scale.detach().exp()
        self._trained = trains(towers.model.text_model)
        self._text = self._side()

    def __call__(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        """Compute a step's gradient, and return its loss; out of memory, go over to the next plan and try again."""
        while True:
            try:
                return gradient(
                    self._towers, inputs, labels, self._text, self._scale, self.plan, self._backward,
                    seed=self._seed, step=step,
                )  # fmt: skip
            except RuntimeError as error:
                if not (_out_of_memory(error) and self._spare):
                    raise
            for parameter in self._towers.model.parameters():
                parameter.grad = None
            if inputs.is_cuda:
                torch.cuda.empty_cache()
            self.plan = self._spare.pop(0)
            self.notes.append(f"memory ran out at step {step + 1}; it went on with {self.plan}")
            self._text = self._side()

    def _side(self) -> TextSide:
        return TextSide(self._towers, self._tokens, trained=self._trained, plan=self.plan)


def _inputs(towers: Towers, pictures: TrainingPictures) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return what gives a step's input and labels: pixel values, or features where these never change."""
    if trains(towers.model.vision_model) or not pictures.fixed:
        return pictures.batch
    device = next(towers.model.parameters()).device
    with torch.no_grad():
        parts = [towers.images(part.to(device)) for part in pictures.all_pixels(_ENCODED)]
    features = torch.cat(parts)  # (M, D)
    return lambda step: (features[pictures.indices(step)], pictures.labels(step))


def _out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in torch's CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class _State:
    """Everything that a step changes, and the checkpoint that holds it."""

    def __init__(
        self,
        model: Any,
        groups: list[dict[str, Any]],
        accelerator: Accelerator,
        iterations: int,
        lr: float,
        checkpoint: Checkpoint | None,
    ) -> None:
        device = accelerator.device
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(groups, betas=_BETAS)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, partial(cosine, steps=iterations, lr=lr)
        )
        self.losses = torch.zeros(iterations, dtype=exact, device=device)
        self._scaler = accelerator.scaler
        self._checkpoint = checkpoint

    def restore(self) -> tuple[int, float, Plan | None]:
        """Go back to the checkpoint, if there is one; return how many steps are done, in what time, by which plan."""
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return 0, 0.0, None
        step, seconds, extra = self._checkpoint.restore(
            self.parameters, self.optimizer, self.scheduler, self.losses
        )
        if self._scaler and extra["scaler"]:
            self._scaler.load_state_dict(extra["scaler"])
        return step, seconds, Plan(**extra["plan"])

    def save(self, step: int, seconds: float, plan: Plan) -> None:
        """Write the checkpoint after ``step`` steps that took ``seconds``."""
        if self._checkpoint:
            extra = {"scaler": self._scaler.state_dict() if self._scaler else None, "plan": asdict(plan)}
            self._checkpoint.save(
                step, seconds, self.parameters, self.optimizer, self.scheduler, self.losses, extra
            )


def _finite(loss: float, step: int) -> float:
    """Return the loss, or stop a run that has left the numbers."""
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss became {loss} at step {step}: lower the learning rate (--lr) or use --precision fp32."
        )
    return loss


@contextmanager
def _own_random_stream(device: torch.device) -> Iterator[None]:
    """Seed torch inside, and leave the caller's random state as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is cut in half; a second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
