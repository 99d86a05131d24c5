"""What the tests of methods share: a task of coloured images, and one call that fits it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blocklora.clip import Clip, load_clip, tokenize
from blocklora.core.device import Compute
from blocklora.data import Example
from blocklora.methods import FitResult, Job, Task, find_method, make_settings

NAMES = ("red", "green", "blue")
CPU = torch.device("cpu")
PEFT_LORA = '{"peft_type": "LORA", "r": 2}'
QUICK: dict[str, dict[str, Any]] = {
    "block-lora": {"iterations": 2, "lr": 1e-2},
    "clip-lora": {"iterations": 2, "lr": 1e-2},
    "zero-shot": {},
    "linear-probe": {},
    "zero-shot-probe": {"epochs": 1, "passes": 1},
    "tip-adapter": {"passes": 1},
    "tip-adapter-f": {"passes": 1, "epochs": 1},
    "clip-adapter": {"epochs": 2, "passes": 1},
    "taskres": {"passes": 1, "epochs": 1},
    "lp++": {"epochs": 1},
    "layer-norm": {"iterations": 2, "lr": 1e-2},
    "2sfs": {"iterations": 5, "lr": 1e-2},
    "full": {"iterations": 2, "lr": 1e-3},
    "peft": {"iterations": 2, "lr": 1e-2, "peft_config": PEFT_LORA},
    "coop": {"epochs": 2, "lr": 0.1},
    "kgcoop": {"epochs": 2, "lr": 0.1},
    "prograd": {"epochs": 2, "lr": 0.1},
    "cocoop": {"epochs": 2, "lr": 0.1, "batch_size": 6},
    "maple": {"epochs": 2, "lr": 0.1},
    "promptsrc": {"epochs": 2, "lr": 0.1},
}
"""Settings of every method with which it trains for a moment, and changes something."""


def make_images(part: str, n: int, seed: int) -> tuple[Example, ...]:
    """Return n noisy images of each class, each mostly of one colour."""
    generator = np.random.default_rng(seed)
    found = []
    for label in range(3):
        for number in range(n):
            values = generator.integers(0, 120, (36, 40, 3), dtype=np.uint8)
            values[..., label] += 110
            found.append(Example(f"{part}/{label}/{number}", label, Image.fromarray(values)))
    return tuple(found)


def make_task(clip: Clip, shots: int = 2, n_val: int = 0, flip: bool = False) -> Task:
    """Return a task of three colours."""
    sentences = tuple(f"a photo of a {name}." for name in NAMES)
    tokens, _ = tokenize(sentences, clip.tokenizer, clip.context_length)
    train, val = make_images("train", shots, 0), make_images("val", n_val, 1)
    return Task(NAMES, sentences, tokens, train, flip, val)


def make_job(task: Task, clip: Clip, *, method: str = "zero-shot", **more: Any) -> Job:
    """Return a job on the CPU with seed 0 in single precision, unless something else is asked for."""
    precision = more.pop("precision", "fp32")
    return Job(task, clip, Compute(CPU, precision), more.pop("seed", 0), method, **more)


def fit_quickly(
    name: str, task: Task, clip: Clip, *, job: dict[str, Any] | None = None, **settings: Any
) -> FitResult:
    """Fit a method by name; ``seed`` and what is in ``job`` belong to the job, all else to the settings."""
    more = {"seed": settings.pop("seed", 0)} | (job or {})
    method = find_method(name)
    work = make_job(task, clip, method=name, **more)
    with work.compute.training():
        return method.fit(work, make_settings(name, method.settings, settings))


@pytest.fixture
def clip(clip_folder: Path) -> Clip:
    """A freshly loaded random CLIP, to be changed at will."""
    return load_clip(str(clip_folder))


@pytest.fixture(scope="session")
def task_of() -> Callable[..., Task]:
    """The function that makes a task for a CLIP: ``shots``, ``n_val``, ``flip``."""
    return make_task


@pytest.fixture(scope="session")
def fit_method() -> Callable[..., FitResult]:
    """The function that fits a method by name to a task."""
    return fit_quickly


def classes_of(result: FitResult) -> torch.Tensor:
    """Return the class features of a fitted classifier."""
    return result.classifier.head.tensors["class_features"]
