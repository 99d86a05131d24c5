"""The training loop: pictures and class prompts in, an adapter that tells the classes apart out.

Axes: B = pictures of a batch, N = classes, D = the width of the shared space.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from blocklora.clip.features import image_features, read_ahead, text_features
from blocklora.errors import ConfigError
from blocklora.training.checkpoint import Checkpoint
from blocklora.training.pictures import TrainingPictures

__all__ = ["OnStep", "Training", "cosine", "train"]

OnStep = Callable[[int, int, float, float], None]
"""Told a step, how many there are, its loss and its learning rate."""

_LAST_LR = 1e-6  # where the cosine ends
_BETAS = (0.9, 0.999)
_DROPOUT = 2  # what a random stream is for, beside those of training/pictures.py
_SHOW_SECONDS = 0.2


@dataclass(frozen=True)
class Training:
    """What a training run leaves behind, beside the trained parameters in the model.

    Attributes:
        losses: The cross-entropy of every step, (steps,), float64 on the CPU.
        lr: The learning rate.
        seconds: Time in the loop, that before an interruption included.
    """

    losses: torch.Tensor
    lr: float
    seconds: float

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
    model: Any,
    groups: list[dict[str, Any]],
    tokens: torch.Tensor,
    pictures: TrainingPictures,
    accelerator: Accelerator,
    *,
    iterations: int,
    lr: float,
    seed: int,
    checkpoint: Checkpoint | None = None,
    save_seconds: float = 20.0,
    on_step: OnStep | None = None,
) -> Training:
    """Minimise the cross-entropy of scaled cosines over the model's trainable parameters, by AdamW.

    Args:
        model: A ``CLIPModel`` on the accelerator's device, with an adapter in its layers.
        groups: Parameter groups for AdamW, with their learning rates and weight decays.
        tokens: Token ids of the class prompts (N, L).
        pictures: The batches.
        accelerator: Device and precision.
        iterations: Steps in all.
        lr: The learning rate that the schedule's end, 1e-6, refers to.
        seed: Where the dropout masks come from.
        checkpoint: Where to keep the state; if it is there already, the run goes on from it.
        save_seconds: How often to keep it. It is also kept when Ctrl-C stops the run between two steps.
        on_step: Told of progress a few times a second.

    Raises:
        ConfigError: The loss is no longer a number.
        RunError: The checkpoint is damaged or belongs to another run.
        KeyboardInterrupt: Ctrl-C; the checkpoint has been written.
    """
    device = accelerator.device
    state = _State(model, groups, accelerator, iterations, lr, checkpoint)
    start, seconds = state.restore()
    optimizer = accelerator.prepare_optimizer(state.optimizer)
    tokens, scale = tokens.to(device), model.logit_scale.detach().exp()
    model.train()
    began = saved = time.monotonic()
    shown = -math.inf  # the first step is always shown
    batches = read_ahead(pictures.batch, range(start, iterations), ahead=3, workers=2)
    with _own_random_stream(device), _stop_between_steps() as stop:
        for step, (pixel_values, labels) in enumerate(batches, start):
            torch.manual_seed(_dropout_seed(seed, step))
            with accelerator.autocast():
                images = image_features(model, pixel_values.to(device))  # (B, D)
                classes = text_features(model, tokens)  # (N, D)
                logits = scale * images @ classes.T  # (B, N)
            loss = F.cross_entropy(logits.float(), labels.to(device))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            state.losses[step] = loss.detach()
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
                state.save(step + 1, seconds + now - began)
            if stop.is_set() and not last:
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {iterations}")
    model.eval()
    return Training(state.losses.cpu().double(), lr, seconds + time.monotonic() - began)


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

    def restore(self) -> tuple[int, float]:
        """Go back to the checkpoint, if there is one; return how many steps are done, and in what time."""
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return 0, 0.0
        step, seconds, scaler = self._checkpoint.restore(
            self.parameters, self.optimizer, self.scheduler, self.losses
        )
        if self._scaler and scaler:
            self._scaler.load_state_dict(scaler)
        return step, seconds

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint after ``step`` steps that took ``seconds``."""
        if self._checkpoint:
            scaler = self._scaler.state_dict() if self._scaler else None
            self._checkpoint.save(
                step, seconds, self.parameters, self.optimizer, self.scheduler, self.losses, scaler
            )


def _finite(loss: float, step: int) -> float:
    """Return the loss, or stop a run that has left the numbers."""
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss became {loss} at step {step}: lower the learning rate (--lr) or use --precision fp32."
        )
    return loss


def _dropout_seed(seed: int, step: int) -> int:
    """Return the seed of a step's dropout masks."""
    return int(np.random.SeedSequence((seed, _DROPOUT, step)).generate_state(1, np.uint64)[0] >> 1)


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
