"""Cross-validation in the place of a test part: each image is judged by a fit that did not see it.

All images are cut into folds, each with the same share of every class. For every fold the method is fitted anew to the
images of the others, with whatever it chooses and tunes, and judges the images of the fold: what is judged has chosen
nothing. The answers are pooled. A fold's answers are kept when they are there, so a resumed run goes on with the
missing folds. M = the images of a fold, k = the classes that are kept of an answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from blocklora.core.deadline import Deadline
from blocklora.core.errors import DataError
from blocklora.data import Example, Unreadable
from blocklora.methods import Fit, Prepared
from blocklora.methods.held_out.parts import Part, cut
from blocklora.metrics import Answers, cross_validated_interval, joined_answers, judge_confidence
from blocklora.report import CrossValidation, RunMetrics
from blocklora.run.fitting import Fitting
from blocklora.run.measure import Heard, Measured, figures, hear, write_heard
from blocklora.training import Checkpoint

__all__ = ["cross_validated"]

FOLDS = 5

_ANSWERS = tuple(Answers.__dataclass_fields__)


@dataclass(frozen=True)
class _Fold:
    """What the fit of a fold said, at its temperature and at 1; how long it took; what it kept of several methods."""

    heard: Heard
    before: Answers
    seconds: float
    kept: str


def cross_validated(
    fitting: Fitting,
    prepared: Prepared,
    name: str,
    checkpoint: Checkpoint,
    deadline: Deadline | None,
    predictions: Path,
) -> Measured:
    """Judge a method by cross-validation over all images that are prepared.

    Args:
        fitting: How the fit of a fold is done.
        prepared: Training images, and validation images if there are any; both are dealt out over the folds.
        name: What errors call the data.
        checkpoint: Of the run.
        deadline: When the run is to end; each fold, and the fit to all images afterwards, has the same share.
        predictions: A CSV file to write, one row an image.

    Returns:
        The metrics of all answers together, and the images that they are of, fold after fold.

    Raises:
        DataError: No class has two images.
    """
    parts = cut(prepared.task, fitting.config.seed, FOLDS)
    if len(parts) < 2:
        raise DataError(
            f"{name}: every class has one image, so none can be kept out and judged: add images, or take more a class"
        )
    every, folds = (*prepared.task.train, *prepared.task.val), list[_Fold]()
    for number, part in enumerate(parts):
        fitting.part(f"fold {number + 1} of {len(parts)}")
        keep = checkpoint.part(f"fold-{number}")
        judged = [every[place] for place in part.judged]
        if keep.kept() is None:
            own = replace(prepared, task=replace(prepared.task, train=part.train, val=part.val))
            left = len(parts) - number + 1  # fits, that to all images among them
            told = replace(fitting, on_expected=None) if number else fitting.times(left)
            share = deadline and Deadline(min(deadline.seconds / (len(parts) + 1), deadline.left() / left))
            _keep(keep, _asked(told, own, judged, name, keep.part("fit"), share))
            keep.part("fit").remove()
        folds.append(_recalled(keep, judged))
    heard, metrics = _pooled(folds, parts, prepared.task.class_names)
    write_heard(predictions, heard, prepared.task.class_names)
    return Measured(metrics, heard.images, None)


def _asked(
    fitting: Fitting,
    prepared: Prepared,
    judged: Sequence[Example],
    name: str,
    checkpoint: Checkpoint,
    deadline: Deadline | None,
) -> _Fold:
    """Fit to the images of other folds, and ask about those of a fold."""
    began = time.monotonic()
    fit = fitting.fit(prepared, checkpoint, deadline, len(judged))
    heard, features = hear(fit, name, judged, fitting.progress, fitting.store)
    before = fit.classifier.with_temperature(1.0).answers(features, heard.labels)
    return _Fold(heard, before, time.monotonic() - began, _kept(fit))


def _kept(fit: Fit) -> str:
    """Return which methods a fit kept that chose among several; empty for others."""
    return " and ".join(one.name for one in fit.result.candidates if one.kept)


def _keep(keep: Checkpoint, fold: _Fold) -> None:
    """Write what a fold said."""
    tensors = {
        f"{when}/{name}": torch.from_numpy(np.ascontiguousarray(getattr(said, name)))
        for when, said in (("after", fold.heard.said), ("before", fold.before))
        for name in _ANSWERS
    }
    facts = {
        "images": [example.image for example in fold.heard.images],
        "unreadable": [[bad.image, bad.reason] for bad in fold.heard.unreadable],
        "seconds": fold.seconds,
        "kept": fold.kept,
    }
    keep.keep({**tensors, "zero_shot": torch.from_numpy(fold.heard.zero_shot)}, facts)


def _recalled(keep: Checkpoint, judged: Sequence[Example]) -> _Fold:
    """Return what ``_keep`` wrote."""
    found = keep.kept()
    if found is None:
        raise RuntimeError(f"{keep.path}: expected the answers of a fold, which were just written")
    tensors, facts = found
    names = set(facts["images"])
    images = tuple(example for example in judged if example.image in names)
    after, before = (
        Answers(**{name: tensors[f"{when}/{name}"].numpy() for name in _ANSWERS})
        for when in ("after", "before")
    )
    labels = np.array([example.label for example in images])
    unreadable = tuple(Unreadable(*bad) for bad in facts["unreadable"])
    heard = Heard(images, labels, after, tensors["zero_shot"].numpy(), unreadable)
    return _Fold(heard, before, float(facts["seconds"]), str(facts["kept"]))


def _pooled(
    folds: Sequence[_Fold], parts: Sequence[Part], class_names: Sequence[str]
) -> tuple[Heard, RunMetrics]:
    """Return the answers of all folds together, and their metrics."""
    all_heard = tuple(fold.heard for fold in folds)
    heard = Heard(
        tuple(example for one in all_heard for example in one.images),
        np.concatenate([one.labels for one in all_heard]),
        joined_answers([one.said for one in all_heard]),
        np.concatenate([one.zero_shot for one in all_heard]),
        tuple(bad for one in all_heard for bad in one.unreadable),
    )
    n_correct = [int((one.said.predicted == one.labels).sum()) for one in all_heard]
    n_judged = [len(one.images) for one in all_heard]
    n_fitted = [len(part.train) for part in parts]
    measured = figures(heard, class_names)
    interval = cross_validated_interval(n_correct, n_judged, n_fitted)
    before = joined_answers([fold.before for fold in folds])
    return heard, replace(
        measured,
        evaluation=replace(measured.evaluation, accuracy_interval=interval),
        confidence=judge_confidence(before, heard.said, heard.labels),
        cross_validation=CrossValidation(
            tuple(n_correct),
            tuple(n_judged),
            tuple(n_fitted),
            sum(fold.seconds for fold in folds),
            tuple(fold.kept for fold in folds if fold.kept),
        ),
    )
