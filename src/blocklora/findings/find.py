"""From what was kept of labelled images to every kind of finding.

Axes: M = readable images, U = those without exact copies of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blocklora.findings.duplicates import CopyGroup, exact_groups, near_groups
from blocklora.findings.finding import KINDS, Finding
from blocklora.findings.labels import LabelDoubts, doubts, out_of_fold
from blocklora.findings.looking import Looked
from blocklora.findings.neighbours import Neighbours, nearest
from blocklora.findings.quality import blank, far_away
from blocklora.findings.wording import (
    Checked,
    class_findings,
    group_findings,
    label_findings,
    quality_findings,
)

__all__ = ["find_copies", "find_faults", "gravest_first"]

_NEIGHBOURS = 10
_WEAK = 0.6  # out-of-fold accuracy below which most suspects are right as they are


def find_faults(
    checked: Checked, looked: Looked, contents: Sequence[str], side: int
) -> tuple[list[Finding], list[str]]:
    """Find everything but unreadable files, and say what to mind.

    Args:
        checked: The images (M,).
        looked: What was kept of them.
        contents: A digest of the bytes of each (M,).
        side: Of the model's square, in pixels.
    """
    seen = looked.properties
    empty = np.array([blank(one) > 0 for one in seen])
    families, copies, unique, neighbours = _families(checked, looked, contents, empty)
    lonely = np.zeros(len(seen))
    lonely[unique] = far_away(neighbours.cosines)
    found, note = _label_doubts(checked, looked, families, empty)
    findings = [
        *copies,
        *label_findings(checked, found, looked.features),
        *quality_findings(checked, seen, np.where(empty, 0, lonely), side),
        *class_findings(checked, found, seen),
    ]
    return _told(checked, findings), note


def find_copies(checked: Checked, looked: Looked, contents: Sequence[str]) -> list[Finding]:
    """Find copies, exact and near, and those that stand under two labels or in two splits; see ``find_faults``."""
    empty = np.array([blank(one) > 0 for one in looked.properties], dtype=bool)
    return _told(checked, _families(checked, looked, contents, empty)[1])


def gravest_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings with the gravest kind first, and within a kind the worst."""
    kinds = list(KINDS)
    return tuple(sorted(findings, key=lambda one: (kinds.index(one.kind), -one.score)))


def _told(checked: Checked, findings: Sequence[Finding]) -> list[Finding]:
    """Return findings that know the label and the split of each of their images."""
    places = {name: place for place, name in enumerate(checked.images)}
    return [
        replace(
            one,
            labels=tuple(checked.label(places[name]) for name in one.images),
            parts=tuple(checked.parts[places[name]] for name in one.images),
        )
        for one in findings
    ]


def _families(
    checked: Checked, looked: Looked, contents: Sequence[str], empty: NDArray[np.bool_]
) -> tuple[list[CopyGroup], list[Finding], NDArray[np.int64], Neighbours]:
    """Return what belongs together, the findings of it, the places (U,) without copies, and the neighbours there."""
    seen = looked.properties
    exact = exact_groups(contents, [one.digest for one in seen])
    unique = _without_copies(len(seen), exact)  # (U,)
    neighbours = nearest(looked.features[unique], _NEIGHBOURS)
    near = near_groups([seen[place] for place in unique], neighbours, empty[unique])
    near = [_with_copies(group, unique, exact) for group in near]
    families = [
        *near,
        *(group for group in exact if not any(set(group.places) <= set(n.places) for n in near)),
    ]
    return families, group_findings(checked, exact, near, families), unique, neighbours


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
