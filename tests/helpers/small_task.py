"""What the tests of methods share: a task of coloured pictures, and one call that fits it."""

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
from blocklora.methods import METHODS, Fitted, Task, make_settings

NAMES = ("red", "green", "blue")


def make_task(clip: Clip, shots: int = 2, n_val: int = 0, flip: bool = False) -> Task:
    """Return a task of noisy pictures, each mostly of one colour."""

    def pictures(part: str, n: int, seed: int) -> tuple[Example, ...]:
        generator = np.random.default_rng(seed)
        found = []
        for label in range(3):
            for number in range(n):
                values = generator.integers(0, 120, (36, 40, 3), dtype=np.uint8)
                values[..., label] += 110
                found.append(Example(f"{part}/{label}/{number}", label, Image.fromarray(values)))
        return tuple(found)

    sentences = tuple(f"a photo of a {name}." for name in NAMES)
    tokens, _ = tokenize(sentences, clip.tokenizer, clip.context_length)
    return Task(NAMES, sentences, tokens, pictures("train", shots, 0), flip, pictures("val", n_val, 1))


@pytest.fixture
def clip(clip_folder: Path) -> Clip:
    """A freshly loaded random CLIP, to be changed at will."""
    return load_clip(str(clip_folder))


@pytest.fixture(scope="session")
def task_of() -> Callable[..., Task]:
    """The function that makes a task for a CLIP: ``shots``, ``n_val``, ``flip``."""
    return make_task


@pytest.fixture(scope="session")
def fit_method() -> Callable[..., Fitted]:
    """The function that fits a method by name to a task."""

    def fit(name: str, task: Task, clip: Clip, *, seed: int = 0, **settings: Any) -> Fitted:
        compute = Compute(torch.device("cpu"), "fp32")
        return METHODS[name](task, clip, make_settings(name, METHODS[name], settings), seed, compute)

    return fit
