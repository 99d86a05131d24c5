"""What test images say of a classifier's confidence: one ``Confidence``. N images, C classes, n held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blocklora.metrics.answers import Answers, calibration_of_answers
from blocklora.metrics.calibration import Calibration
from blocklora.metrics.checks import checked_labels
from blocklora.metrics.intervals import wilson_interval
from blocklora.metrics.selective import (
    Answered,
    RiskCoverage,
    answered_above,
    risk_coverage,
    threshold_for,
)
from blocklora.metrics.unknown import FALSE_ALARMS, UnknownStudy

__all__ = ["Confidence", "Sets", "Unknown", "Wanted", "judge_confidence", "judge_sets", "judge_unknown"]

WANTED = (0.8, 0.9, 0.95, 0.99)
_NORMAL = 1.959964  # the 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Sets:
    """What sets of classes came to on N test images.

    Attributes:
        coverage: What was asked for, in (0, 1).
        covered: The share of sets that hold the true class.
        covered_interval: 95% of it, Wilson.
        mean_size: Classes in a set, on average.
        size_interval: 95% of it, by the normal distribution.
        single: The share of sets of one class.
        empty: The share of sets of none.
        worst_class: (name's index, share covered, images) of the class that is covered least, of those with 10 test
            images or more; None where there is none.
        how: How the calibration images were kept out: ``validation``, ``folds`` or ``leave-one-out``.
        n_images: Calibration images.
        guaranteed: The coverage that is proven; None where nothing is.
    """

    coverage: float
    covered: float
    covered_interval: tuple[float, float]
    mean_size: float
    size_interval: tuple[float, float]
    single: float
    empty: float
    worst_class: tuple[int, float, int] | None
    how: str
    n_images: int
    guaranteed: float | None


@dataclass(frozen=True)
class Wanted:
    """A wanted accuracy, and what the threshold for it came to on the test images; None where none is certain."""

    accuracy: float
    test: Answered | None


@dataclass(frozen=True)
class Unknown:
    """Whether things that are no class are found.

    Attributes:
        study: With classes that play the unknown, on held-out images; None where that could not be.
        rate: The false alarms that were asked for, in (0, 1).
        false_alarms: The share of the test images, all of known classes, that were called unknown.
        interval: 95% of it, Wilson.
        how: As of ``Sets``.
    """

    study: UnknownStudy | None
    rate: float
    false_alarms: float
    interval: tuple[float, float]
    how: str


@dataclass(frozen=True)
class Confidence:
    """What N test images say of a classifier's confidence.

    Attributes:
        before: Of the probabilities at temperature 1.
        after: At the fitted temperature.
        risk: Accuracy by the share of images answered.
        wanted: For each wanted accuracy the threshold that held-out images, never these, gave; empty without any.
        sets: What sets of classes came to; None where there is nothing to make them by.
        unknown: Whether unknown things are found; None where nothing can tell them.
    """

    before: Calibration
    after: Calibration
    risk: RiskCoverage
    wanted: tuple[Wanted, ...] = ()
    sets: Sets | None = None
    unknown: Unknown | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        facts: dict[str, Any] = _lists(asdict(self))
        return facts

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Confidence:
        """Return what ``to_json`` wrote.

        Raises:
            KeyError: A key is missing.
            TypeError: An object has a key that is not known.
        """
        sets, unknown = facts.get("sets"), facts.get("unknown")
        return cls(
            before=Calibration(**facts["before"]),
            after=Calibration(**facts["after"]),
            risk=RiskCoverage(tuple(map(tuple, facts["risk"]["points"])), facts["risk"]["area"]),
            wanted=tuple(
                Wanted(row["accuracy"], row["test"] and Answered(**_tuples(row["test"])))
                for row in facts["wanted"]
            ),
            sets=sets and Sets(**_tuples(sets)),
            unknown=unknown
            and Unknown(
                **_tuples(unknown) | {"study": unknown["study"] and UnknownStudy(**unknown["study"])}
            ),
        )


def judge_confidence(
    before: Answers,
    after: Answers,
    labels: ArrayLike,
    held_out: tuple[ArrayLike, ArrayLike] | None = None,
    sets: Sets | None = None,
    unknown: Unknown | None = None,
) -> Confidence:
    """Judge the confidence of a classifier on N test images.

    Args:
        before: The answers to the test images at temperature 1, N >= 1.
        after: Those at the fitted temperature.
        labels: (N,) true classes.
        held_out: (n,) probabilities of the answers to held-out images and (n,) whether they are right; thresholds are
            chosen by them.
        sets: What ``judge_sets`` gave.
        unknown: What ``judge_unknown`` gave.

    Raises:
        DataError: The arrays do not fit each other, or there is no image.
    """
    truth = np.asarray(labels, dtype=np.int64)
    confidence, correct = after.confidence, after.predicted == truth
    return Confidence(
        before=calibration_of_answers(before, truth),
        after=calibration_of_answers(after, truth),
        risk=risk_coverage(confidence, correct),
        wanted=tuple(_wanted(share, held_out, confidence, correct) for share in WANTED) if held_out else (),
        sets=sets,
        unknown=unknown,
    )


def judge_sets(
    sets: NDArray[np.bool_],
    labels: ArrayLike,
    coverage: float,
    *,
    how: str,
    n_images: int,
    guaranteed: float | None,
) -> Sets:
    """Judge sets of classes (N, C) by the true classes (N,) of test images; see ``Sets`` for the other arguments.

    Raises:
        DataError: The labels do not fit the sets.
    """
    truth = checked_labels(labels, *sets.shape)
    hit, sizes = sets[np.arange(len(truth)), truth], sets.sum(axis=1)
    half = _NORMAL * float(sizes.std(ddof=1)) / len(sizes) ** 0.5 if len(sizes) > 1 else 0.0
    mean = float(sizes.mean())
    return Sets(
        coverage=coverage,
        covered=float(hit.mean()),
        covered_interval=wilson_interval(int(hit.sum()), len(hit)),
        mean_size=mean,
        size_interval=(max(0.0, mean - half), mean + half),
        single=float((sizes == 1).mean()),
        empty=float((sizes == 0).mean()),
        worst_class=_worst_class(hit, truth, sets.shape[1]),
        how=how,
        n_images=n_images,
        guaranteed=guaranteed,
    )


def judge_unknown(chance_known: NDArray[np.float64], study: UnknownStudy | None, how: str) -> Unknown:
    """Judge how many test images of known classes are called unknown, by what ``known_p_values`` says of them (N,)."""
    alarms = chance_known <= FALSE_ALARMS
    return Unknown(
        study=study,
        rate=FALSE_ALARMS,
        false_alarms=float(alarms.mean()),
        interval=wilson_interval(int(alarms.sum()), len(alarms)),
        how=how,
    )


def _worst_class(
    hit: NDArray[np.bool_], truth: NDArray[np.int64], n_classes: int, fewest: int = 10
) -> tuple[int, float, int] | None:
    counts = np.bincount(truth, minlength=n_classes)
    shares = np.bincount(truth, weights=hit, minlength=n_classes) / np.maximum(counts, 1)
    known = np.flatnonzero(counts >= fewest)
    if not len(known):
        return None
    worst = int(known[shares[known].argmin()])
    return worst, float(shares[worst]), int(counts[worst])


def _wanted(
    accuracy: float,
    held_out: tuple[ArrayLike, ArrayLike],
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
) -> Wanted:
    threshold = threshold_for(accuracy, *held_out)
    return Wanted(accuracy, None if threshold is None else answered_above(threshold, confidence, correct))


def _lists(value: Any) -> Any:
    """Return a value with lists in the place of tuples, as JSON gives it back."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


def _tuples(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with tuples in the place of lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
