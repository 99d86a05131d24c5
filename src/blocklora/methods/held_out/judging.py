"""What a fit says of the images that it was fitted without, kept so that a resumed run need not ask again.

Axes: R = rows, one for an image that a part judges; N = classes, D = the width of the shared space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from blocklora.classifier import NOTHING_KEPT, Classifier, encode
from blocklora.core.deadline import Deadline
from blocklora.core.errors import ConfigError
from blocklora.data import Example
from blocklora.methods.bank import FeatureBank
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.held_out.parts import Part
from blocklora.methods.method import FitResult, Job
from blocklora.metrics import fit_temperature

__all__ = ["Contender", "Record", "given_up", "judged", "logits_of", "own_temperature", "with_bank"]


@dataclass(frozen=True)
class Contender:
    """A method and its settings, among others that want to be the one.

    Attributes:
        key: A name of its own, of letters, digits and hyphens.
        method: The method's name.
        fit: The method.
        settings: Its settings.
        given: Those of them that differ from the method's defaults, ready for JSON.
        adapts: Whether it changes the image tower: its images go through a tower of their own.
        trains_towers: Whether it trains through the towers, which takes long: its progress is shown, its state kept.
    """

    key: str
    method: str
    fit: Callable[[Job, Any], FitResult]
    settings: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    adapts: bool = False
    trains_towers: bool = False


@dataclass(frozen=True)
class Record:
    """What is known of a contender so far.

    Attributes:
        logits: By the number of a part, what was said of its judged images (m, N): divided by the temperature that the
            fit of the part found for itself.
        seconds: By the number of a part, how long it took.
        given_up: Why no more parts are tried; empty where nothing speaks against it.
    """

    logits: Mapping[int, Tensor] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    given_up: str = ""


def with_bank(job: Job) -> Job:
    """Return the job without a time limit, and with its images' features in memory, computed when first needed."""
    bank = FeatureBank(job.task.train, job.task.val)
    return job.on_images(job.task.train, job.task.val, bank=bank, deadline=None, on_expected=None)


def judged(
    job: Job,
    contender: Contender,
    parts: Sequence[Part],
    numbers: Sequence[int],
    *,
    known: Record | None = None,
    give_up: Callable[[], str] = str,
    deadline: Deadline | None = None,
) -> Record:
    """Fit a contender to parts of the images and ask it about the others, where that is not known yet.

    What is found is written after every part, if the job has a checkpoint. A contender that cannot be fitted is given
    up, and so is one where ``give_up`` names a reason, before a part or between its training steps.

    Args:
        job: With a bank.
        contender: What is fitted.
        parts: All of them.
        numbers: The parts that are asked for.
        known: What an earlier call returned; None: what the checkpoint knows.
        give_up: Returns why there is to be an end; empty where it may go on.
        deadline: When the fit to a part is to be done; None: it takes as long as it takes.
    """
    keep = job.checkpoint.part(f"held-out-{contender.key}") if job.checkpoint else None
    record = known or _recalled(keep.kept() if keep else None)
    for number in numbers:
        if number in record.logits or record.given_up:
            continue
        began = time.monotonic()
        logits: dict[int, Tensor] = {}
        try:
            reason = give_up()
            if not reason:
                logits = {
                    number: _of_part(
                        replace(job, deadline=deadline), contender, parts[number], number, give_up
                    )
                }
        except _GivenUpError as stop:
            reason = str(stop)
        except ConfigError as error:  # such as a loss that is no number
            reason = f"it could not be fitted: {error}"
        seconds = {number: time.monotonic() - began}
        record = Record({**record.logits, **logits}, {**record.seconds, **seconds}, reason)
        _written(job, contender, record)
        if keep:
            keep.part(f"part-{number}").remove()
    return record


def given_up(job: Job, contender: Contender, record: Record, reason: str) -> Record:
    """Return a record that says why a contender is given up, and write it."""
    record = replace(record, given_up=reason)
    _written(job, contender, record)
    return record


def logits_of(job: Job, classifier: Classifier, examples: Sequence[Example]) -> Tensor:
    """Return the logits (m, N) of readable images, not divided by a temperature; the bank knows the base's features."""
    if not examples:
        return torch.empty(0, len(job.task.class_names), dtype=torch.float64)
    if classifier.is_base and job.bank:
        return classifier.logits(_features(job, examples))
    images = [(example.image, example.source) for example in examples]
    return classifier.logits(encode(classifier, images, job.compute).features)


def own_temperature(job: Job, result: FitResult) -> float:
    """Return the temperature that a fit finds for itself, on images that it held out or its validation images."""
    if result.held_out:
        return fit_temperature(result.held_out.logits, result.held_out.labels)
    if job.task.val:
        logits = logits_of(job, result.classifier, job.task.val)
        return fit_temperature(logits.numpy(), labels_of(job.task.val).numpy())
    return 1.0


class _GivenUpError(Exception):
    """There is to be an end between two training steps."""


def _of_part(job: Job, contender: Contender, part: Part, number: int, give_up: Callable[[], str]) -> Tensor:
    """Fit to one part, and return the logits (m, N) of the images that it judges."""

    def on_step(step: int, steps: int, loss: float, lr: float) -> None:
        if reason := give_up():
            raise _GivenUpError(reason)
        if job.on_step and contender.trains_towers:
            job.on_step(step, steps, loss, lr)

    checkpoint = (
        job.checkpoint.part(f"held-out-{contender.key}").part(f"part-{number}") if job.checkpoint else None
    )
    inner = job.on_images(
        part.train,
        part.val,
        store=NOTHING_KEPT,
        checkpoint=checkpoint if contender.trains_towers else None,
        on_step=on_step,
    )
    result = contender.fit(inner, contender.settings)
    every = (*job.task.train, *job.task.val)
    said = logits_of(job, result.classifier, [every[place] for place in part.judged])
    return said / own_temperature(inner, result)


def _written(job: Job, contender: Contender, record: Record) -> None:
    """Write what is known of a contender, if the job has a checkpoint."""
    if job.checkpoint:
        job.checkpoint.part(f"held-out-{contender.key}").keep(
            {str(key): value for key, value in record.logits.items()},
            {
                "seconds": {str(key): value for key, value in record.seconds.items()},
                "given_up": record.given_up,
            },
        )


def _features(job: Job, examples: Sequence[Example]) -> Tensor:
    """Return the base model's features (m, D) of training images, then validation images."""
    training = {id(example) for example in job.task.train}
    of_train = [example for example in examples if id(example) in training]
    of_val = [example for example in examples if id(example) not in training]
    return torch.cat([frozen_features(job, group)[0] for group in (of_train, of_val) if group])


def _recalled(kept: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None) -> Record:
    if kept is None:
        return Record()
    tensors, facts = kept
    return Record(
        {int(key): value for key, value in tensors.items()},
        {int(key): float(value) for key, value in facts["seconds"].items()},
        str(facts["given_up"]),
    )
