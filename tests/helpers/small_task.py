"""What the tests of methods share: a task of coloured images, a job on it, and one call that fits a method."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from blocklora.clip import Clip, load_clip, pixels, tokenize
from blocklora.core.device import Compute
from blocklora.data import Example, open_image
from blocklora.methods import FitResult, Job, Task, find_method, make_settings

NAMES = ("red", "green", "blue")
CPU = torch.device("cpu")

QUICK: dict[str, dict[str, Any]] = {
    "block-lora": {"iterations": 2, "lr": 1e-2},
    "block-lora-gda": {"iterations": 2, "lr": 1e-2, "folds": 2},
    "auto": {"seconds": 1},
    "clip-lora": {"iterations": 2, "lr": 1e-2},
    "zero-shot": {},
    "linear-probe": {},
    "zero-shot-probe": {"epochs": 1, "passes": 1},
    "tip-adapter": {"passes": 1},
    "tip-adapter-f": {"passes": 1, "epochs": 1},
    "clip-adapter": {"epochs": 2, "passes": 1},
    "taskres": {"passes": 1, "epochs": 1},
    "lp++": {"epochs": 1},
    "prototypes": {},
    "gda": {},
    "proker": {},
    "prolip": {"passes": 1, "epochs": 2, "lr": 1e-2},
    "layer-norm": {"iterations": 2, "lr": 1e-2},
    "2sfs": {"iterations": 4, "lr": 1e-2, "first_stage": 0.5},
    "full": {"iterations": 2, "lr": 1e-3},
    "peft": {"iterations": 2, "lr": 1e-2, "peft_config": '{"peft_type": "LORA", "r": 2}'},
    "coop": {"epochs": 2, "lr": 0.1},
    "kgcoop": {"epochs": 2, "lr": 0.1},
    "prograd": {"epochs": 2, "lr": 0.1},
    "cocoop": {"epochs": 2, "lr": 0.1, "batch_size": 6},
    "maple": {"epochs": 2, "lr": 0.1},
    "promptsrc": {"epochs": 2, "lr": 0.1},
}
"""Settings with which every method takes well below a second."""


def make_images(part: str, n: int, seed: int) -> tuple[Example, ...]:
    """Return n noisy images of each class, each mostly of one colour."""
    generator = np.random.default_rng(seed)
    found = []
    for label in range(len(NAMES)):
        for number in range(n):
            values = generator.integers(0, 120, (36, 40, 3), dtype=np.uint8)
            values[..., label] += 110
            found.append(Example(f"{part}/{label}/{number}", label, Image.fromarray(values)))
    return tuple(found)


def make_task(clip: Clip, shots: int = 2, n_val: int = 0, flip: bool = False) -> Task:
    """Return a task of noisy images, each mostly of one colour; ``shots`` and ``n_val`` are images a class."""
    sentences = tuple(f"a photo of a {name}." for name in NAMES)
    tokens, _ = tokenize(sentences, clip.tokenizer, clip.context_length)
    return Task(NAMES, sentences, tokens, make_images("train", shots, 0), flip, make_images("val", n_val, 1))


def make_job(task: Task, clip: Clip, **more: Any) -> Job:
    """Return a job with seed 0 in fp32 on the CPU, unless ``more`` says otherwise."""
    return replace(Job(task, clip, Compute(CPU, "fp32"), 0, "zero-shot"), **more)


def fit_quickly(
    name: str, task: Task, clip: Clip, *, job: dict[str, Any] | None = None, **settings: Any
) -> FitResult:
    """Fit a method by name to a task; what is in ``job`` belongs to the job, all else to the settings."""
    work = make_job(task, clip, **(job or {}))
    with work.compute.training():
        return fit(work, name, **settings)


def fit(job: Job, name: str, **settings: Any) -> FitResult:
    """Fit a method by its name; what is not given of its settings is as published."""
    method = find_method(name)
    return method.fit(replace(job, method=name), make_settings(name, method.settings, settings))


def classes_of(result: FitResult) -> Tensor:
    """Return the class features (N, D) of what was fitted."""
    return result.classifier.head.tensors["class_features"]


def train_pixels(job: Job) -> Tensor:
    """Return the pixel values (M, 3, S, S) of the training images."""
    images = [pixels(open_image(example.source), job.clip.processor) for example in job.task.train]
    return torch.stack(images)


@pytest.fixture(scope="session")
def loaded_clip(clip_folder: Path) -> Clip:
    """A random CLIP, loaded once; take ``clip``, which is a copy."""
    return load_clip(str(clip_folder))


@pytest.fixture
def clip(loaded_clip: Clip) -> Clip:
    """A copy of a random CLIP, to be changed at will."""
    return replace(loaded_clip, model=copy.deepcopy(loaded_clip.model))


@pytest.fixture
def job(clip: Clip) -> Job:
    """A fit of two images a class, seed 0, in fp32 on the CPU, with nothing kept."""
    return make_job(make_task(clip), clip)
