"""What a fit is expected to take, and what a time limit did to it."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

from torch import Tensor

from blocklora.classifier import encode_images
from blocklora.clip import image_features
from blocklora.core.choices import Choice
from blocklora.core.deadline import Deadline, in_words
from blocklora.methods.frozen.features import FeatureSettings
from blocklora.methods.method import FitResult, Job

__all__ = ["passes_in_time", "said_of_the_limit", "with_reserve"]

_SECONDS, _SHARE = 1.0, 0.01  # that measuring images may take, whichever is less; the share is of the limit
_AT_ONCE = (1, 4, 16, 64)  # images that are measured at a time
_FOR_FEATURES = 0.8  # of the time that is left, where a method computes features of several augmented passes
_MARGIN, _REPORT_SECONDS = 1.1, 2.0  # of the evaluation; and to write the report


def with_reserve(job: Job, n_test: int) -> Job:
    """Return a job that knows of the evaluation: its deadline keeps time back, and what is expected includes it.

    Args:
        job: The job, with its model on the device.
        n_test: Test images that are measured after the fit.
    """
    if job.deadline is None and job.on_expected is None:
        return job
    limit = job.deadline.seconds if job.deadline else float("inf")
    one, forward = _seconds_an_image(job, min(_SECONDS, _SHARE * limit))
    # Training images are encoded once more, for what a classifier keeps of them; test images also by the base model.
    # Where there are any, the others are as well, to say what is wrong with them.
    images = (2 if n_test else 1) * (len(job.task.train) + len(job.task.val)) + 2 * n_test
    seconds = one * images + (_REPORT_SECONDS if n_test else 0.0)
    told = job.on_expected
    return replace(
        job,
        deadline=job.deadline and job.deadline.reserve(_MARGIN * seconds),
        on_expected=told and (lambda training: told(training + seconds)),
        forward_seconds=forward,
    )


def passes_in_time(job: Job, settings: Any) -> Any:
    """Return settings with as many augmented passes over the training images as there is time for, at least one.

    Where there is no time limit, someone is told how long the features will take instead.

    Args:
        job: From ``with_reserve``.
        settings: Of the method; those of methods without such passes come back as they are.
    """
    if not isinstance(settings, FeatureSettings):
        return settings
    one = len(job.task.train) * job.forward_seconds
    if job.deadline is None:
        if job.on_expected:
            job.on_expected(settings.passes * one)
        return settings
    left = job.deadline.left()

    def decide() -> int:
        return max(1, min(settings.passes, int(_FOR_FEATURES * left / one)))

    passes = job.checkpoint.first_start("passes", decide) if job.checkpoint else decide()
    return replace(settings, passes=passes)


def _seconds_an_image(job: Job, budget: float) -> tuple[float, float]:
    """Decode and encode training images, more and more at a time.

    Returns:
        The seconds that one of the last ones took, and how many of them in the image tower.
    """
    images = itertools.cycle((example.image, example.source) for example in job.task.train)
    began = time.monotonic()
    for size in _AT_ONCE:
        timed = _TimedForward(job)
        start = time.monotonic()
        encode_images(
            list(itertools.islice(images, size)),
            timed,
            job.clip.processor,
            device=job.device,
            batch_size=size,
        )
        now = time.monotonic()
        if size > 1 and now - began > budget:  # the first image of all waits for much that is loaded once
            break
    return (now - start) / size, timed.seconds / size


class _TimedForward:
    """The frozen image tower, and the seconds spent in it."""

    def __init__(self, job: Job) -> None:
        self._job, self.seconds = job, 0.0

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Return unit features (B, D) on the CPU."""
        began = time.monotonic()
        with self._job.compute.autocast():
            features = image_features(self._job.clip.model, pixel_values, engine=self._job.engine).cpu()
        self.seconds += time.monotonic() - began
        return features


def said_of_the_limit(
    result: FitResult, deadline: Deadline | None, passes: tuple[int, int] | None
) -> FitResult:
    """Say what a time limit did: how the number of steps and of passes was chosen, and a note for what was cut.

    Args:
        result: Of the method.
        deadline: The time limit, if there was one.
        passes: Augmented passes over the training images as they were, and as they would be without the limit.
    """
    if deadline is None:
        return result
    limit, training = in_words(deadline.seconds), result.training
    numbers = {"augmented passes": passes} if passes else {}
    if training and training.recipe_steps:
        numbers["steps"] = len(training.losses), training.recipe_steps
    notes = [
        f"the time limit of {limit} cut {what} from {without:,} to {number:,}"
        for what, (number, without) in numbers.items()
        if number < without
    ]
    choices = {what: _choice(*both, limit) for what, both in numbers.items()}
    return replace(result, choices={**result.choices, **choices}, notes=(*result.notes, *notes))


def _choice(number: int, without: int, limit: str) -> Choice:
    """Return how a number was chosen."""
    if number == without:
        return Choice(number, "fixed", f"as without the time limit of {limit}, which leaves time for all")
    return Choice(number, "fixed", f"time limit of {limit}; {without:,} without it")
