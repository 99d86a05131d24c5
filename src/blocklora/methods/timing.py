"""What a fit is expected to take, and what a time limit did to it."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

from torch import Tensor

from blocklora.classifier import encode_images
from blocklora.clip import image_features
from blocklora.core.choices import Choice
from blocklora.core.deadline import Deadline, in_words
from blocklora.methods.method import FitResult, Job
from blocklora.training import Curve

__all__ = ["evaluation_seconds", "said_of_the_limit", "with_reserve"]

_SECONDS, _SHARE = (
    1.0,
    0.01,
)  # that measuring images may take: the smaller of the two, the share is of a time limit
_AT_ONCE = (1, 4, 16, 64)  # images that are measured at a time
_MARGIN, _REPORT_SECONDS = 1.1, 2.0  # of the evaluation; and to write the report


def with_reserve(job: Job, n_test: int) -> Job:
    """Return a job that knows of the evaluation: its deadline keeps time back, and what is expected includes it.

    Args:
        job: The job, with its model on the device.
        n_test: Test images that are measured after the fit.
    """
    if job.deadline is None and job.on_expected is None:
        return job
    seconds = evaluation_seconds(job, n_test)
    told = job.on_expected
    return replace(
        job,
        deadline=job.deadline and job.deadline.reserve(_MARGIN * seconds),
        on_expected=told and (lambda training: told(training + seconds)),
    )


def evaluation_seconds(job: Job, n_test: int) -> float:
    """Measure how long validation and test images will take: the latter go through the adapted and the base model."""
    limit = job.deadline.seconds if job.deadline else float("inf")
    one = _seconds_an_image(job, min(_SECONDS, _SHARE * limit))
    return one * (len(job.task.val) + 2 * n_test) + (_REPORT_SECONDS if n_test else 0.0)


def _seconds_an_image(job: Job, budget: float) -> float:
    """Decode and encode training images, more and more at a time, and return the seconds that one took at last."""
    images = itertools.cycle((example.image, example.source) for example in job.task.train)

    def forward(pixel_values: Tensor) -> Tensor:
        with job.compute.autocast():
            return image_features(job.clip.model, pixel_values, engine=job.engine)

    began = time.monotonic()
    seconds = 0.0
    for size in _AT_ONCE:
        start = time.monotonic()
        encode_images(
            list(itertools.islice(images, size)),
            forward,
            job.clip.processor,
            device=job.device,
            batch_size=size,
        )
        now = time.monotonic()
        seconds = (now - start) / size
        if now - began > budget:
            break
    return seconds


def said_of_the_limit(result: FitResult, deadline: Deadline | None) -> FitResult:
    """Return a result whose choices say how the number of steps was chosen, and whose notes say if it was cut."""
    training = result.training
    if deadline is None or training is None or training.recipe_steps is None:
        return result
    limit = in_words(deadline.seconds)
    return replace(
        result,
        choices={**result.choices, "steps": _choice(training, training.recipe_steps, limit)},
        notes=(*result.notes, *_notes(training, training.recipe_steps, limit)),
    )


def _choice(training: Curve, recipe: int, limit: str) -> Choice:
    """Return how the number of steps was chosen."""
    number = len(training.losses)
    if number == recipe:
        return Choice(
            number, "fixed", f"the recipe's or given; the time limit of {limit} leaves time for all"
        )
    return Choice(number, "fixed", f"time limit of {limit}; {recipe:,} without it")


def _notes(training: Curve, recipe: int, limit: str) -> tuple[str, ...]:
    """Say that training was cut."""
    number = len(training.losses)
    if number == recipe:
        return ()
    return (
        f"the time limit of {limit} cut training to {number:,} of {recipe:,} steps; the learning rate went through its "
        "whole schedule in them",
    )
