"""What is wrong with a set of labelled images: one pass over them, then every kind of finding from what was kept.

Axes: M = readable images, U = those without exact copies of others, D = the width of a feature, N = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from blocklora.clip import crop_size, load_image_tower
from blocklora.core.device import Compute, resolve_device, resolve_precision
from blocklora.core.errors import DataError
from blocklora.core.words import count
from blocklora.data import Dataset, Example, Source, Unreadable, content_digests, missing, read_dataset
from blocklora.explore.duplicates import CopyGroup, exact_groups, near_groups
from blocklora.explore.finding import KINDS, Finding
from blocklora.explore.labels import LabelDoubts, doubts, out_of_fold
from blocklora.explore.looking import Looked, look_at
from blocklora.explore.neighbours import nearest
from blocklora.explore.quality import blank, far_away
from blocklora.explore.wording import (
    Checked,
    class_findings,
    group_findings,
    label_findings,
    quality_findings,
)

__all__ = ["CheckResult", "check_data"]

_NEIGHBOURS = 10
_WEAK = 0.6  # out-of-fold accuracy below which most suspects are right as they are


@dataclass(frozen=True)
class CheckResult:
    """What was found.

    Attributes:
        name: Of the data.
        model: The model that looked.
        parts: How many images each part has, unreadable ones included.
        n_classes: How many classes.
        findings: The gravest kind first, within a kind the worst first.
        notes: What to mind, a sentence each.
        images: Labels and splits of all images, by name.
        sources: Where the pixels of each are, by name.
    """

    name: str
    model: str
    parts: dict[str, int]
    n_classes: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    images: dict[str, tuple[str, str]]
    sources: dict[str, Source]


def check_data(
    data: str,
    *,
    model: str,
    root: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    on_batch: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Look once at every image of a data set, all parts, and say what is wrong with them.

    Args:
        data: A folder, a table, ``hf:NAME``, a bundled task's name, or a data set's name with ``root``.
        model: Whose features are compared.
        root: The folder that holds the folders of the data sets.
        revision: Of the model on the hub.
        device: Where to compute.
        on_batch: Called with the number of images that are done, and how many there are.

    Raises:
        DataError: The data cannot be read, or no image of it.
        ModelError: The model cannot be loaded.
    """
    found = read_dataset(data, root, training=False)
    items = [(part, one) for part in ("train", "val", "test") for one in getattr(found, part)]
    _check_there(found, [one for _, one in items])
    where = resolve_device(device)
    base = load_image_tower(model, revision)
    torch.nn.Module.to(base.model, where)
    compute = Compute(where, resolve_precision("auto", where))
    named = [(one.image, one.source) for _, one in items]
    looked = look_at(named, base, compute, (lambda n: on_batch(n, len(named))) if on_batch else None)
    if not len(looked.kept):
        raise DataError(
            f"{found.name}: none of {count(len(items), 'image')} can be read: {looked.unreadable[0].reason}"
        )
    kept = [items[place] for place in looked.kept]
    contents = content_digests([named[place] for place in looked.kept])
    checked = Checked(
        tuple(one.image for _, one in kept),
        tuple(part for part, _ in kept),
        np.array([one.label for _, one in kept]),
        found.class_names,
    )
    findings, notes = _findings(checked, looked, contents, crop_size(base.processor))
    return CheckResult(
        found.name,
        base.model_id,
        {part: len(getattr(found, part)) for part in ("train", "val", "test") if getattr(found, part)},
        len(found.class_names),
        _sorted([*findings, *map(_unreadable, looked.unreadable)]),
        (*found.notes, *notes),
        {one.image: (found.class_names[one.label], part) for part, one in items},
        dict(named),
    )


def _unreadable(one: Unreadable) -> Finding:
    """Return the finding of an image that cannot be read."""
    return Finding("unreadable", (one.image,), 1.0, one.reason.removeprefix(f"{one.image}: "), ("remove",))


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings with the gravest kind first, and within a kind the worst."""
    kinds = list(KINDS)
    return tuple(sorted(findings, key=lambda one: (kinds.index(one.kind), -one.score)))


def _check_there(found: Dataset, images: Sequence[Example]) -> None:
    """Raise unless there are images, and their files."""
    if not images:
        raise DataError(f"{found.name}: there are no images")
    if gone := missing(images):
        raise DataError(
            f"{found.name}: {count(len(gone), 'image')} of {len(images)} not found, e.g. {gone[0]}: put them back"
        )


def _findings(
    checked: Checked, looked: Looked, contents: Sequence[str], side: int
) -> tuple[list[Finding], list[str]]:
    """Find everything but unreadable files, and say what to mind."""
    seen = looked.properties
    empty = np.array([blank(one) > 0 for one in seen])
    exact = exact_groups(contents, [one.digest for one in seen])
    unique = _without_copies(len(seen), exact)  # (U,)
    neighbours = nearest(looked.features[unique], _NEIGHBOURS)
    near = near_groups([seen[place] for place in unique], neighbours, empty[unique])
    near = [_with_copies(group, unique, exact) for group in near]
    lonely = np.zeros(len(seen))
    lonely[unique] = far_away(neighbours.cosines)
    families = [
        *near,
        *(group for group in exact if not any(set(group.places) <= set(n.places) for n in near)),
    ]
    found, note = _label_doubts(checked, looked, families, empty)
    findings = [
        *group_findings(checked, exact, near, families),
        *label_findings(checked, found, looked.features),
        *quality_findings(checked, seen, np.where(empty, 0, lonely), side),
        *class_findings(checked, found, seen),
    ]
    return findings, note


def _without_copies(m: int, exact: Sequence[CopyGroup]) -> NDArray[np.int64]:
    """Return the places of images (U,) of which no earlier one is an exact copy."""
    copies = {place for group in exact for place in group.places[1:]}
    return np.array([place for place in range(m) if place not in copies], dtype=np.int64)


def _with_copies(group: CopyGroup, unique: NDArray[np.int64], exact: Sequence[CopyGroup]) -> CopyGroup:
    """Return a group of images that have no copies, with the places that they have among all, and their copies."""
    copies = {one.places[0]: one.places for one in exact}
    own = [int(unique[place]) for place in group.places]
    return CopyGroup(
        tuple(sorted(p for one in own for p in copies.get(one, (one,)))), group.likeness, group.why
    )


def _label_doubts(
    checked: Checked, looked: Looked, families: Sequence[CopyGroup], empty: NDArray[np.bool_]
) -> tuple[LabelDoubts, list[str]]:
    """Rank the labels in doubt; blank images are neither judged nor learned from."""
    groups = np.arange(len(checked.images))
    for family in families:
        groups[list(family.places)] = family.places[0]
    shown = np.flatnonzero(~empty)
    probabilities = np.full((len(groups), len(checked.class_names)), np.nan)
    probabilities[shown] = out_of_fold(
        looked.features[shown], checked.labels[shown], len(checked.class_names), groups[shown]
    )
    found = doubts(probabilities, checked.labels)
    notes = []
    if found.accuracy < _WEAK:
        notes.append(
            f"the model's features predict {found.accuracy:.0%} of the labels, so that most labels in doubt will be "
            "right as they are; a larger --model sees more"
        )
    return found, notes
