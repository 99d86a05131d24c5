"""auto: the best of many methods, found by cross-validation on the training images within a time.

Every contender is fitted to parts of the training images and judged by the others, the same parts for all: first the
methods on frozen features, cheapest first, on features computed once; then Block-LoRA with a few settings, of which the
worse half is dropped after each part. Validation images judge as well, dealt out over the parts: no image judges a fit
that was trained on it or chose by it. The best is fitted to all training images; or a mixture of at most three, where
that is better by more than one standard error. Test images choose nothing.

What is tried follows from a plan that is made once, by the time that a view and a training step take here; a resumed
run follows the plan of its first start, and goes on with what is missing. Where every class has one image and there are
no validation images nothing can be judged: then it is ProKeR with its values for this case, the best of the methods
that take seconds at one image a class (docs/methods.md), and near the best trained ones in published means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blocklora.core.candidates import Candidate
from blocklora.core.deadline import Deadline
from blocklora.methods.answers import OutOfFold
from blocklora.methods.auto import facts
from blocklora.methods.auto.choose import Judged, best_mixture, best_of
from blocklora.methods.auto.contenders import FROZEN, adapters, frozen
from blocklora.methods.auto.halving import halved
from blocklora.methods.auto.plan import AutoPlan, first_plan
from blocklora.methods.frozen import proker
from blocklora.methods.frozen.features import labels_of
from blocklora.methods.held_out.judging import Contender, Record, given_up, judged, with_bank
from blocklora.methods.held_out.parts import Part, cut
from blocklora.methods.held_out.scores import Scores, scores
from blocklora.methods.held_out.together import fit_member, together
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need, need_whole
from blocklora.training.images import Augment
from blocklora.training.memory.limits import parse_bytes

__all__ = ["METHOD", "AutoSettings", "fit"]

_LOG = logging.getLogger(__name__)
_NOTHING_JUDGES = "every class has one image and there are no validation images, so nothing could be judged"
_FOR_TESTING = 0.1  # of the time, where nobody has said how many test images there are
_LAST_START = 0.12  # of the time: when no more is left nothing is judged any more
_SOON = 5.0  # seconds: what takes no longer is always fitted

_Tried = tuple[Contender, Record]


@dataclass(frozen=True)
class AutoSettings:
    """How long it may take, and what all methods share.

    Attributes:
        seconds: How long it may take where no time limit is given, testing included; 10 minutes.
        augment: How training images are cut: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop``
            where mirroring changes the class.
        memory_limit: The most memory that training may use, such as ``24GB``; None is what is free.
    """

    seconds: int = 600
    augment: Augment | None = None
    memory_limit: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        need_whole(self, "seconds")
        cuts = (None, "crop-flip", "crop", "none")
        need(self.augment in cuts, "augment", self.augment, "one of crop-flip, crop, none")
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit)


def fit(job: Job, settings: AutoSettings) -> FitResult:
    """Judge all that fits into the time, and fit the best to all training images."""
    deadline = job.deadline or Deadline(settings.seconds).reserve(_FOR_TESTING * settings.seconds)
    job, parts = with_bank(job), cut(job.task, job.seed)
    if not parts:
        return _unjudged(job)
    labels = torch.cat([labels_of(job.task.train), labels_of(job.task.val)])
    plan = first_plan(job, settings, parts, deadline)
    tried, dropped = _judge(job, settings, plan, parts, labels, deadline)
    tried, dropped = _in_time(job, tried, dropped, deadline)
    heard = [
        Judged(one, record, scores(record.logits, parts, labels)[0]) for one, record in tried if record.logits
    ]
    whole = [one for one in heard if one.contender.key not in dropped]
    members, weights, kept, out_of_fold = _chosen(whole, parts, labels)
    _tell(job, f"{' and '.join(one.contender.method for one in members)}, on all training images")
    fitted = [fit_member(job, one.contender) for one in members]
    final = together(job, fitted, weights, [one.scores.temperature for one in members], out_of_fold)
    by_key = {one.contender.key: weight for one, weight in zip(members, weights, strict=True)}
    silent = [(one, record) for one, record in tried if not record.logits]
    return replace(
        final,
        classifier=replace(
            final.classifier, text=None
        ),  # whatever was kept: auto learns the classes that it saw
        choices={
            **final.choices,
            **facts.choices(members, weights, kept, len(whole), validated=bool(job.task.val)),
        },
        candidates=facts.candidates(heard, silent, plan.left_out, dropped, by_key, kept),
    )


def _judge(
    job: Job,
    settings: AutoSettings,
    plan: AutoPlan,
    parts: Sequence[Part],
    labels: Tensor,
    deadline: Deadline,
) -> tuple[list[_Tried], dict[str, str]]:
    """Judge everything that is planned.

    Returns:
        What is known of each contender, the cheapest first, and by its key why it is out of the choice, if it is.
    """
    tried: list[_Tried] = []
    began = deadline.passed()
    for place, one in enumerate((frozen(name, settings.augment) for name in plan.frozen), 1):
        _tell(job, f"{one.method} ({place} of {len(plan.frozen)})")
        over: Callable[[], str] = (
            str  # what needs no augmented views takes a moment, and something must be judged
        )
        if FROZEN[one.method].passes:
            over = _over(lambda: deadline.passed() - began, plan.frozen_seconds)
        tried.append((one, judged(job, one, parts, range(len(parts)), give_up=over)))
    dropped = {one.key: record.given_up for one, record in tried if record.given_up}
    shared = {"iterations": plan.steps, "augment": settings.augment, "memory_limit": settings.memory_limit}
    others = adapters(list(plan.adapters), shared)
    late = _over(lambda: -deadline.left(), -_LAST_START * deadline.seconds)
    records, out = halved(
        job, others, parts, labels, give_up=late, short=lambda seconds: deadline.left() < 2 * seconds
    )
    return tried + [(one, records[one.key]) for one in others], dropped | out


def _in_time(
    job: Job, tried: list[_Tried], dropped: dict[str, str], deadline: Deadline
) -> tuple[list[_Tried], dict[str, str]]:
    """Drop what could not be fitted to all images in the time that is left."""
    found = []
    for one, record in tried:
        slowest = max(record.seconds.values(), default=0.0)
        left = deadline.left()
        if one.adapts and one.key not in dropped and slowest > max(_SOON, left):
            why = f"its fit to all images would take {slowest:.0f} s or more, and {left:.0f} s are left"
            record = given_up(job, one, record, why)
            dropped = {**dropped, one.key: why}
        found.append((one, record))
    return found, dropped


def _chosen(
    whole: Sequence[Judged], parts: Sequence[Part], labels: Tensor
) -> tuple[list[Judged], tuple[float, ...], Scores, OutOfFold]:
    """Return what is kept, its weights, its scores, and what it said of held-out images."""
    best = best_of(whole)
    mixed = best_mixture(best, whole, parts, labels)
    if mixed:
        return mixed[0], mixed[1].weights, mixed[1].scores, mixed[1].out_of_fold
    return [best], (1.0,), *scores(best.record.logits, parts, labels)


def _over(passed: Callable[[], float], seconds: float) -> Callable[[], str]:
    """Return what says that a time is over, once it is."""
    return lambda: "the time that there was for it was over" if passed() > seconds else ""


def _tell(job: Job, what: str) -> None:
    """Say what is done now."""
    _LOG.info("auto: %s", what)
    if job.on_part:
        job.on_part(what)


def _unjudged(job: Job) -> FitResult:
    """Fit what is best as far as is published, where no image can judge."""
    result = proker.fit(job, proker.ProkerSettings())
    why = f"{_NOTHING_JUDGES}; it is the best of the methods that take seconds at one image a class"
    return replace(
        result,
        candidates=(Candidate("proker", True, why),),
        notes=(*result.notes, f"auto took proker: {_NOTHING_JUDGES}"),
    )


METHOD = Method(fit, AutoSettings, prompts="trained with")
