"""From what was measured to findings: sentences, scores, and what to do with each image.

Axes: M = images, D = the width of a feature, N = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blocklora.core.words import count, name_some
from blocklora.data import same_words
from blocklora.findings.duplicates import CopyGroup
from blocklora.findings.finding import Finding
from blocklora.findings.labels import LabelDoubts
from blocklora.findings.properties import Properties
from blocklora.findings.quality import blank, blurry, dark, long, tell_tale, tiny

__all__ = ["Checked", "class_findings", "group_findings", "label_findings", "quality_findings"]

_SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}
_KEPT_FIRST = ("test", "val", "train")  # of two copies the one in the test part stays
_UNEVEN = 10  # times as many images in the largest class as in the smallest
_CONFUSED, _FEWEST_CONFUSED, _MOST_PAIRS, _SHOWN = 0.15, 3, 5, 8


@dataclass(frozen=True)
class Checked:
    """The readable images.

    Attributes:
        images: Names (M,).
        parts: ``train``, ``val`` or ``test`` for each (M,).
        labels: (M,).
        class_names: N names.
    """

    images: tuple[str, ...]
    parts: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def label(self, place: int) -> str:
        """Return the class name of an image."""
        return self.class_names[int(self.labels[place])]


def group_findings(
    checked: Checked, exact: Sequence[CopyGroup], near: Sequence[CopyGroup], families: Sequence[CopyGroup]
) -> list[Finding]:
    """Return copies, near copies, and what is wrong with them: two labels, or two splits."""
    found = [
        Finding(kind, names, group.likeness, _likeness(group), actions)
        for kind, groups in (("exact-duplicate", exact), ("near-duplicate", near))
        for group in groups
        for names, actions in [_ordered(checked, group, "remove" if kind == "exact-duplicate" else "look")]
    ]
    for group in families:
        names, actions = _ordered(checked, group, "remove")
        labels = list(dict.fromkeys(checked.label(place) for place in group.places))
        parts = [part for part in _SPLIT_WORDS if part in {checked.parts[place] for place in group.places}]
        if len(labels) > 1:
            what = f"{_likeness(group)}, under the labels {name_some(labels)}"
            found.append(Finding("conflict", names, group.likeness, what, ("look",) * len(names)))
        if len(parts) > 1:
            where = " and the ".join(_SPLIT_WORDS[part] for part in parts)
            what = f"{_likeness(group)}, in the {where} images"
            found.append(Finding("leak", names, group.likeness, what, actions))
    return found


def label_findings(checked: Checked, found: LabelDoubts, features: NDArray[np.float32]) -> list[Finding]:
    """Return the labels in doubt, each with the nearest image (of features (M, D)) of the class that it looks like."""
    findings = []
    for place in found.suspects:
        name, other = checked.label(place), int(found.suggested[place])
        peers = np.flatnonzero(checked.labels == other)
        peer = peers[int(np.argmax(features[peers] @ features[place]))]
        suggested = checked.class_names[other]
        what = f"labelled {name!r} ({found.confidence[place]:.0%}), looks like {suggested!r} ({found.rival[place]:.0%})"
        pair = (checked.images[place], checked.images[peer])
        score = float(1 - found.confidence[place])
        findings.append(Finding("label", pair, score, what, ("look", "keep"), suggested))
    return findings


def quality_findings(
    checked: Checked, seen: Sequence[Properties], lonely: NDArray[np.float64], side: int
) -> list[Finding]:
    """Return blank, dark, blurry, odd and outlying images; one that is blank is nothing else.

    Args:
        checked: The images.
        seen: Their properties (M,).
        lonely: How far each is from its nearest others, 0 where that is usual (M,).
        side: Of the model's square, in pixels.
    """
    soft, small, stretched = blurry(seen), tiny(seen, side), long(seen)
    findings = []
    for place, one in enumerate(seen):
        name = checked.images[place]
        if score := blank(one):
            findings.append(Finding("blank", (name,), score, "one colour all over", ("remove",)))
            continue
        kinds = {
            "outlier": (float(lonely[place]), f"under {checked.label(place)!r}, and far from every other image"),
            "dark": (dark(one), f"nearly black: 95% of it is darker than {one.highlight:.0f} of 255"),
            "blurry": (float(soft[place]), f"hardly any edges (variance of the Laplacian {one.sharpness:.0f})"),
            "odd-size": (float(max(small[place], stretched[place])), _shape(one, small[place] > 0)),
        }  # fmt: skip
        findings += [
            Finding(kind, (name,), score, what, ("look",)) for kind, (score, what) in kinds.items() if score
        ]
    return findings


def class_findings(checked: Checked, found: LabelDoubts, seen: Sequence[Properties]) -> list[Finding]:
    """Return what is wrong with whole classes."""
    findings = [
        Finding("similar-names", (), 1.0, f"{one!r} and {two!r} are the same words, written differently")
        for one, two in same_words(checked.class_names)
    ]
    findings += _confused(checked, found)
    training = [place for place, part in enumerate(checked.parts) if part == "train"] or range(len(seen))
    counts = np.bincount(checked.labels[training], minlength=len(checked.class_names))
    most, fewest = int(counts.argmax()), int(counts.argmin())
    if counts[most] >= _UNEVEN * counts[fewest] and len(counts) > 1:
        message = (
            f"{checked.class_names[most]!r} has {count(int(counts[most]), 'training image')}, "
            f"{checked.class_names[fewest]!r} has {counts[fewest]}"
        )
        findings.append(Finding("imbalance", (), 1 - float(counts[fewest] / counts[most]), message))
    for name, accuracy, guess in tell_tale(seen, checked.labels):
        message = f"{name} alone tells the class in {accuracy:.0%} of the images, where a guess is right in {guess:.0%}"
        findings.append(Finding("image-property", (), (accuracy - guess) / (1 - guess), message))
    return findings


def _confused(checked: Checked, found: LabelDoubts) -> list[Finding]:
    """Return the pairs of classes whose images look like the other class most often, at most five pairs."""
    wrong = np.flatnonzero(found.rival > found.confidence)  # NaN is not larger
    pairs: dict[tuple[int, int], list[int]] = {}
    for place in wrong:
        one, two = sorted((int(checked.labels[place]), int(found.suggested[place])))
        pairs.setdefault((one, two), []).append(int(place))
    findings = []
    for (one, two), places in pairs.items():
        n = int(np.isin(checked.labels, (one, two)).sum())
        if len(places) < max(_FEWEST_CONFUSED, _CONFUSED * n):
            continue
        names = f"{checked.class_names[one]!r} and {checked.class_names[two]!r}"
        message = f"{names} are mixed up: {len(places)} of their {n} images look like the other class"
        worst = sorted(places, key=lambda place: found.confidence[place])[:_SHOWN]
        images = tuple(checked.images[place] for place in worst)
        findings.append(
            Finding("confused-classes", images, len(places) / n, message, ("look",) * len(images))
        )
    return sorted(findings, key=lambda one: -one.score)[:_MOST_PAIRS]


def _ordered(checked: Checked, group: CopyGroup, action: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a group, the one to keep first, and what to do with each."""
    places = sorted(group.places, key=lambda place: (_KEPT_FIRST.index(checked.parts[place]), place))
    return tuple(checked.images[place] for place in places), ("keep", *[action] * (len(places) - 1))


def _likeness(group: CopyGroup) -> str:
    return group.why if group.likeness == 1 else f"{group.why} (cosine {group.likeness:.2f})"


def _shape(one: Properties, small: bool) -> str:
    """Say what is odd about a size."""
    if small:
        return f"very small: {one.width} x {one.height} pixels"
    ratio = one.width / one.height
    return f"{ratio:.1f} times as wide as high" if ratio > 1 else f"{1 / ratio:.1f} times as high as wide"
