"""The one way to call a method: device, job, ensemble of prompts, temperature."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blocklora.classifier import (
    NOTHING_KEPT,
    Classifier,
    FeatureStore,
    at_once,
    other_classes,
)
from blocklora.clip import Engine
from blocklora.core.choices import Choice
from blocklora.core.deadline import Deadline
from blocklora.core.device import Compute
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.resources import Resources
from blocklora.methods.answers import CROSS_VALIDATED, HeldOut, OutOfFold
from blocklora.methods.bank import FeatureBank
from blocklora.methods.config import FitConfig
from blocklora.methods.evidence import gather_evidence, judged
from blocklora.methods.method import FitResult, Job, OnPart, Task
from blocklora.methods.prepare import Prepared
from blocklora.methods.table import find_method
from blocklora.methods.timing import passes_in_time, said_of_the_limit, with_reserve
from blocklora.metrics import fit_temperature
from blocklora.training import Checkpoint, OnExpected, OnStep

__all__ = ["Fit", "fit_classifier", "self_judged"]

_MOST_LOGITS = 1 << 25  # that set the temperature, of images by classes: one number needs no more
_EVERY = "one of every {} validation images, as the classes are many"
_NOT_CALIBRATED = "no validation images were left, so probabilities are not calibrated (temperature 1)"


@dataclass(frozen=True)
class Fit:
    """A fitted classifier and how it came about.

    Attributes:
        classifier: With its temperature.
        result: What the method did.
        choices: Those of the method, and the temperature's.
        seconds: How long it took, features included, also those that the store had from before.
        compute: Where it was fitted, and may predict.
        images_at_once: How many images go through the image tower at a time when it predicts.
    """

    classifier: Classifier
    result: FitResult
    choices: dict[str, Choice]
    seconds: float
    compute: Compute
    images_at_once: int


def fit_classifier(
    prepared: Prepared,
    config: FitConfig,
    *,
    store: FeatureStore = NOTHING_KEPT,
    resources: Resources | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
    deadline: Deadline | None = None,
    n_test: int = 0,
    on_expected: OnExpected | None = None,
    on_part: OnPart | None = None,
    ranks: Ranks = ALONE,
    bank: FeatureBank | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> Fit:
    """Fit to the training images; the validation images choose where a method says so, and set the temperature.

    Args:
        prepared: What ``prepare`` gave.
        config: What is to be done.
        store: Where features of the frozen model are kept.
        resources: Cores and memory to use; None: all that this process may use.
        checkpoint: Where the state of training is kept; a fit that finds it there goes on from it.
        on_step: Called with the progress of training.
        deadline: When everything is to be done, and the evaluation after it; None: it takes as long as it takes.
        n_test: Test images that will be measured afterwards.
        on_expected: Told before training how many seconds it and the evaluation are expected to take.
        on_part: Told what the progress from now on belongs to, by methods that fit several times.
        ranks: The processes that share the work; all of them get the same.
        bank: Features that are known already.
        start: An adapter that training goes on from; see ``Job``.
    """
    method, task, clip = find_method(config.method), prepared.task, prepared.clip
    compute = Compute(config.device, config.precision, deterministic=config.deterministic, ranks=ranks)
    with compute.training():
        torch.nn.Module.to(clip.model, compute.device)
        engine: Engine = getattr(config.settings, "engine", "auto")
        given = (
            store,
            resources,
            checkpoint,
            on_step,
            engine,
            deadline,
            on_expected,
            0.0,
            on_part,
            bank,
            start,
        )
        job = with_reserve(Job(task, clip, compute, config.seed, config.method, *given), n_test)
        settings = passes_in_time(job, config.settings)
        began = time.monotonic() + store.seconds_spared
        result = method.fit(job, settings)
        seconds = _seconds(result, time.monotonic() + store.seconds_spared - began)
        result = said_of_the_limit(result, deadline, _passes(settings, config.settings))
        return _finished(prepared, config, result, compute, store, seconds)


def _finished(
    prepared: Prepared,
    config: FitConfig,
    result: FitResult,
    compute: Compute,
    store: FeatureStore,
    seconds: float,
) -> Fit:
    """Let the ensemble of prompts predict, and the classifier judge itself."""
    classifier = result.classifier
    if config.ensemble and find_method(config.method).prompts == "averaged":
        classifier = _averaged(classifier, prepared, config.ensemble)
    size = _at_once(compute.device, result, config.settings)
    classifier, choice = self_judged(classifier, prepared.task, result, compute, size, store)
    not_calibrated = () if choice.by == "validation" else (_NOT_CALIBRATED,)
    return Fit(
        classifier=classifier,
        result=replace(result, notes=(*result.notes, *not_calibrated)),
        choices={**result.choices, "temperature": choice},
        seconds=seconds,
        compute=compute,
        images_at_once=size,
    )


def self_judged(
    classifier: Classifier, task: Task, result: FitResult, compute: Compute, size: int, store: FeatureStore
) -> tuple[Classifier, Choice]:
    """Give a classifier its temperature and what it judges itself by.

    Args:
        classifier: On the device.
        task: Its classes and images; where ``result`` has features of the training images they are not opened.
        result: What the method did, and what it said of images that it held out.
        compute: Where to compute.
        size: How many images are encoded at a time.
        store: Where features of the frozen model are kept.

    Returns:
        The classifier, and how the temperature was chosen.
    """
    every = max(1, -(-len(task.val) * len(task.class_names) // _MOST_LOGITS)) if task.val else None
    held_out = judged(classifier, task.val[::every], compute, size, store) if every else result.held_out
    temperature, choice = _temperature(result.out_of_fold or held_out, every)
    classifier = classifier.with_temperature(temperature)
    evidence = gather_evidence(classifier, task.train, held_out, result.features, compute, size, store)
    return replace(classifier, evidence=evidence), choice


def _seconds(result: FitResult, here: float) -> float:
    """Return how long a fit took; a resumed one began in another process."""
    trained = result.training.seconds if result.training else 0.0
    return max(here, trained, sum(one.seconds for one in result.candidates))


def _passes(settings: Any, given: Any) -> tuple[int, int] | None:
    """Return the augmented passes as they were and as they were asked for; None where the method has none."""
    return (settings.passes, given.passes) if hasattr(given, "passes") else None


def _averaged(classifier: Classifier, prepared: Prepared, templates: Sequence[str]) -> Classifier:
    """Let the mean over templates predict, as the text tower sees them after training."""
    model = prepared.clip.model if classifier.adapter is None else classifier.adapter.get_base_model()
    head = other_classes(
        classifier.head,
        classifier.text,
        model,
        prepared.clip,
        prepared.task.class_names,
        templates,
        engine=classifier.engine,
    )
    return replace(classifier, head=head)


def _at_once(device: torch.device, result: FitResult, settings: Any) -> int:
    """Return how many images are encoded at a time; under a memory limit not many more than in training."""
    if result.engine and settings.memory_limit:
        return min(at_once(device), 3 * result.engine.micro_batch)  # features need a third of a step's memory
    return at_once(device)


def _temperature(held_out: OutOfFold | HeldOut | None, every: int | None) -> tuple[float, Choice]:
    """Return the temperature that makes images that were not trained on most probable, and how it was chosen.

    Args:
        held_out: The logits of these images.
        every: They are one of so many validation images; None: they are training images that were held out.
    """
    if held_out is None:
        return 1.0, Choice(1.0, "fixed", "no validation images, so probabilities are not calibrated")
    found = fit_temperature(held_out.logits, held_out.labels)
    reason, n_images = CROSS_VALIDATED, len(held_out.labels)
    if every is not None:
        reason = _EVERY.format(every) if every > 1 else ""
    if isinstance(held_out, OutOfFold):
        reason, n_images = held_out.reason, held_out.n_images
    return found, Choice(found, "validation", reason, n_images=n_images)
