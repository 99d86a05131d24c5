"""What is wrong with the images of a run: found with the base model's features, when everything is measured.

Axes: M = training and validation images, T = test images, D = the width of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from blocklora.clip import crop_size
from blocklora.core.words import count
from blocklora.data import Example, Source, content_digests
from blocklora.findings.find import find_copies, find_faults, gravest_first
from blocklora.findings.finding import Finding
from blocklora.findings.looking import Looked, look_at
from blocklora.findings.wording import Checked
from blocklora.methods import Fit, Task
from blocklora.run.measure import Measured

__all__ = ["run_findings"]

MOST = 5000  # training and validation images; with more, their decoding would take long beside the fit
_TESTED = 1000  # test images that are opened again
_NEAR = 0.92  # the least cosine of copies
_ELSEWHERE = ("similar-names", "confused-classes")  # said of the run itself, by notes and by its mistakes
_BLOCK = 1024  # test images at a time


def run_findings(fit: Fit, task: Task, measured: Measured) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Find what is wrong with the training and validation images, and which test images are copies of them.

    Test images are looked at last, and only told: those that are nearest to one of the others are opened again, at most
    a thousand.

    Args:
        fit: What was fitted; it is not changed.
        task: Its images.
        measured: The test images, and their features.

    Returns:
        The findings, the gravest first, and what a reader must know of them, as sentences.
    """
    own = [*(("train", one) for one in task.train), *(("val", one) for one in task.val)]
    if len(own) > MOST:
        many = count(len(own), "training and validation image")
        return (), (f"with {many}, more than {MOST:,}, the report does not check them: blocklora check does",)
    looked = _look(fit, task)
    side = crop_size(fit.classifier.base.processor)
    kept = [own[place] for place in looked.kept]
    findings, notes = find_faults(_checked(kept, task), looked, _contents(kept), side)
    findings = [one for one in findings if one.kind not in _ELSEWHERE]
    near = _near_tests(looked.features, measured.base_features.numpy())
    if len(near):
        told = _of_tests(fit, task, measured, kept, looked, near)
        groups = [(one.kind, set(one.images)) for one in told]
        findings = [
            one for one in findings if not any(one.kind == k and set(one.images) < g for k, g in groups)
        ]
        findings += told
    return gravest_first(findings), tuple(notes if any(one.kind == "label" for one in findings) else ())


def _look(fit: Fit, task: Task) -> Looked:
    """Look at the training and validation images (M,), with the features that a frozen method has of the first."""
    look = partial(look_at, base=fit.classifier.base, compute=fit.compute, engine=fit.classifier.engine)
    train, val = _named(task.train), _named(task.val)
    if fit.result.features is None or not fit.classifier.is_base:
        return look([*train, *val])
    first = look(train, known=fit.result.features.float().numpy())
    return _together(first, look(val), len(train)) if val else first


def _of_tests(
    fit: Fit,
    task: Task,
    measured: Measured,
    own: Sequence[tuple[str, Example]],
    looked: Looked,
    near: NDArray[np.int64],
) -> list[Finding]:
    """Return the copies among which there is a test image; ``near`` are the test images in question."""
    tests = [measured.images[place] for place in near]
    features = measured.base_features.numpy()[near]
    found = look_at(_named(tests), fit.classifier.base, fit.compute, known=features)
    items = [*own, *(("test", tests[place]) for place in found.kept)]
    both = _together(looked, found, len(own))
    findings = find_copies(_checked(items, task), both, _contents(items))
    return [one for one in findings if "test" in one.parts]


def _near_tests(own: NDArray[np.float32], tests: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the places of test images (T, D) that may be copies of images (M, D), the nearest first."""
    starts = range(0, len(tests), _BLOCK)
    nearest = np.concatenate([(tests[start : start + _BLOCK] @ own.T).max(axis=1) for start in starts])
    order = np.argsort(-nearest, kind="stable")[:_TESTED]
    return order[nearest[order] >= _NEAR]


def _together(first: Looked, second: Looked, n_first: int) -> Looked:
    """Join what was kept of ``n_first`` images and of those that follow."""
    return Looked(
        np.concatenate([first.features, second.features]),
        (*first.properties, *second.properties),
        np.concatenate([first.kept, second.kept + n_first]),
        (*first.unreadable, *second.unreadable),
    )


def _checked(items: Sequence[tuple[str, Example]], task: Task) -> Checked:
    return Checked(
        tuple(one.image for _, one in items),
        tuple(part for part, _ in items),
        np.array([one.label for _, one in items]),
        task.class_names,
    )


def _named(examples: Sequence[Example]) -> list[tuple[str, Source]]:
    return [(one.image, one.source) for one in examples]


def _contents(items: Sequence[tuple[str, Example]]) -> list[str]:
    return list(content_digests([(one.image, one.source) for _, one in items]))
