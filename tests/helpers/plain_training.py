"""Whole-batch training of CLIP's own weights, without anything of ours."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from small_task import train_pixels

from blocklora.methods import Job


def cosine(lr: float, step: int, steps: int) -> float:
    """Return the learning rate of a step, on half a cosine from ``lr`` to 1e-6."""
    last = 1e-6 / lr
    return lr * (last + (1 - last) * (1 + math.cos(math.pi * step / steps)) / 2)


def is_layer_norm(name: str) -> bool:
    """Return whether a parameter belongs to a LayerNorm; transformers misspells one of them."""
    return "norm" in name or "layrnorm" in name


def train_a_copy(
    job: Job, is_trained: Callable[[str], bool], *, steps: int, lr: float, decay: float
) -> torch.nn.Module:
    """Return a copy of the job's model, some of whose parameters were trained on the whole training set."""
    model = copy.deepcopy(job.clip.model)
    values, labels = train_pixels(job), torch.tensor([example.label for example in job.task.train])
    chosen = [p.requires_grad_(True) for name, p in model.named_parameters() if is_trained(name)]
    optimizer = torch.optim.AdamW(chosen, lr=lr, weight_decay=decay)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cosine(lr, step, steps)
        together = model(input_ids=job.task.tokens, pixel_values=values)
        optimizer.zero_grad()
        F.cross_entropy(together.logits_per_image, labels).backward()
        optimizer.step()
    return model.requires_grad_(False)
