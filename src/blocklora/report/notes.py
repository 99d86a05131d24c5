"""What a reader must know about a run, found in its metrics: each a sentence, or None where there is nothing to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Literal

from blocklora.metrics import Evaluation
from blocklora.report.run_metrics import RunMetrics
from blocklora.report.words import count, join, mean_confidence, percent, signed, verdict

__all__ = [
    "calibration_note",
    "gain_note",
    "leak_note",
    "loss_trend",
    "training_note",
    "untested_note",
    "warnings",
]

HIGH_ECE = 0.2  # above it a probability says little
FEW_IMAGES = 50  # below it the calibration error of even an honest classifier can be high
MOST_NAMES = 5


def warnings(metrics: RunMetrics) -> list[str]:
    """Return every note below that has something to say, the gravest first."""
    evaluation = metrics.evaluation
    notes = (
        untested_note(evaluation),
        training_note(metrics),
        gain_note(metrics),
        calibration_note(evaluation),
    )
    return [note for note in notes if note]


def untested_note(evaluation: Evaluation) -> str | None:
    """Name the classes without a test image, of which the accuracy says nothing."""
    names = [row.class_name for row in evaluation.per_class if not row.n_test]
    if not names:
        return None
    shown = names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"{len(names) - MOST_NAMES:,} more"]
    have, them = ("has", "it") if len(names) == 1 else ("have", "them")
    return (
        f"{len(names):,} of {count(evaluation.n_classes, 'class')} {have} no test image: {join(shown)}. "
        f"The accuracy says nothing about {them}."
    )


def calibration_note(evaluation: Evaluation) -> str | None:
    """Warn of probabilities that mean little: an expected calibration error above 20%."""
    if evaluation.ece <= HIGH_ECE:
        return None
    n_test = evaluation.n_test
    chance = (
        f" With only {count(n_test, 'test image')}, part of it may be chance." if n_test < FEW_IMAGES else ""
    )
    return (
        f"The probabilities mean little: the expected calibration error is {percent(evaluation.ece)}. The predicted "
        f"classes get a probability of {percent(mean_confidence(evaluation.reliability))} on average, and "
        f"{percent(evaluation.accuracy)} of them are correct.{chance}"
    )


def gain_note(metrics: RunMetrics) -> str | None:
    """Say that adapting brought no clear gain over zero-shot, and what to try."""
    found, difference = verdict(metrics), metrics.evaluation.difference
    if found is None or difference is None or found.kind == "better" or metrics.evaluation.accuracy == 1:
        return None
    low, high = difference.interval
    what = "It is worse than zero-shot" if found.kind == "worse" else "There is no clear gain over zero-shot"
    tips = ["more training images a class"]
    if metrics.history and training_note(metrics) is None:
        tips.append("a higher learning rate (--lr) or more steps (--iterations)")
    if metrics.method != "auto":
        tips.append("the best of many methods, found on the training images (--method auto)")
    if found.kind == "same" and high - low > 0.1:
        tips.append(f"more test images, as {count(metrics.evaluation.n_test, 'image')} show large gains only")
    return (
        f"{what} ({signed(difference.value)} points, 95% interval {signed(low)} to {signed(high)}). "
        f"Try {join(tips, 'or')}."
    )


def leak_note(pairs: Sequence[tuple[str, str]]) -> str | None:
    """Say that test images were trained on, byte for byte.

    Args:
        pairs: (training or validation image, test image) of equal bytes.
    """
    if not pairs:
        return None
    trained, tested = pairs[0]
    are, them = ("is", "it") if len(pairs) == 1 else ("are", "them")
    return (
        f"{count(len(pairs), 'test image')} {are} identical, byte for byte, to a training or validation image, e.g. "
        f"{tested} and {trained}: the accuracy is flattered by {them}."
    )


def training_note(metrics: RunMetrics) -> str | None:
    """Say that the training loss diverged, or that it stayed flat and nothing was gained, and what to try."""
    trend = loss_trend(metrics.history)
    if trend == "diverged":
        return "The training loss grew: training diverged. Try a lower learning rate (--lr)."
    found = verdict(metrics)
    if trend == "flat" and (found is None or found.kind != "better"):
        return (
            "The training loss stayed flat: nothing was learned. Try a higher learning rate (--lr) or more steps "
            "(--iterations)."
        )
    return None


def loss_trend(history: Sequence[Mapping[str, float | None]]) -> Literal["falls", "flat", "diverged"] | None:
    """Return how the training loss went.

    Args:
        history: ``loss`` of points of the training.

    Returns:
        ``diverged``: a loss is not finite, or the mean of the last fifth is above 1.5 times that of the first,
            and 0.5 nats above it.
        ``flat``: it is above 0.97 times that, and was above 0.1 nats, so that there was something to learn.
        ``falls``: neither. None: there are fewer than 5 points.
    """
    losses = [point["loss"] for point in history if "loss" in point]
    finite = [loss for loss in losses if loss is not None and isfinite(loss)]
    if len(finite) < len(losses):
        return "diverged"
    if len(finite) < 5:
        return None
    fifth = len(finite) // 5
    first, last = fmean(finite[:fifth]), fmean(finite[-fifth:])
    if last > max(1.5 * first, first + 0.5):
        return "diverged"
    return "flat" if first > 0.1 and last > 0.97 * first else "falls"
