"""Every random stream has a name, and follows from the run's seed and the place where it is used.

A stream is numpy's ``default_rng((seed, stream, *place))``. Nothing random is carried from step to step, which is why a
run that was resumed ends with the same bits. Two kinds of randomness follow other laws: the few-shot sampling, which is
that of the literature (``data/sampling.py``), and the start of parameters, ``start_generator``.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch

from blocklora.core.errors import ConfigError

__all__ = ["LARGEST_SEED", "Stream", "check_seed", "generator", "start_generator", "torch_seed"]

LARGEST_SEED = 2**63 - 1
"""The largest seed that every generator takes: numpy's, torch's and Python's."""


class Stream(IntEnum):
    """What a random stream is for. The numbers belong to the bits of a run: never change one."""

    IMAGE_ORDER = 0  # of the training images, an epoch
    CROP = 1  # of a training image, a step and a place in the batch
    DROPOUT = 2  # masks of a tower, a step and a pass
    FEATURE_CROP = 3  # of an image whose features are computed once, a pass and an image
    FEATURE_ORDER = 4  # of features, an epoch
    PROMPT_START = 5  # learned vectors that start at random
    FOLDS = 6  # of the training images, a repetition and a class


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """Return the generator of a stream at a place, such as a step or an image's index."""
    return np.random.default_rng((seed, int(stream), *place))


def torch_seed(seed: int, stream: Stream, *place: int) -> int:
    """Return a seed for torch, from 0 to 2**63 - 1, that belongs to a stream at a place."""
    state = np.random.SeedSequence((seed, int(stream), *place)).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def start_generator(seed: int) -> torch.Generator:
    """Return the generator from which a method's own parameters start; it is seeded with the run's seed itself."""
    return torch.Generator().manual_seed(seed)


def check_seed(seed: object) -> int:
    """Return a seed as a whole number.

    Raises:
        ConfigError: It is none, or lies outside of 0 to 2**63 - 1.
    """
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= int(seed) <= LARGEST_SEED:  # type: ignore[call-overload]
        raise ConfigError(f"seed '{seed}': expected a whole number from 0 to {LARGEST_SEED}.")
    return int(seed)  # type: ignore[call-overload, no-any-return]
