"""What a reader may rely on, in words and figures: calibration, sets of classes, answering only where sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from blocklora.metrics import Answered, Confidence, Sets, Unknown, fewest_images
from blocklora.report.figures import risk_coverage_curve
from blocklora.report.run_metrics import RunMetrics
from blocklora.report.words import count, join, percent, percent_range

__all__ = [
    "ConfidenceView",
    "alarm_sentence",
    "confidence_view",
    "measured_sentence",
    "promise_sentence",
    "sets_sentence",
]

_GUESSING = 0.6  # an area under the curve below it is little better than guessing
_UNKNOWN_WORDS = {
    "softmax": "top probability",
    "energy": "energy",
    "mcm": "zero-shot (MCM)",
    "nearest": "nearest training image",
    "together": "top probability and nearest training image together",
}


@dataclass(frozen=True)
class ConfidenceView:
    """What the report shows.

    Attributes:
        calibration: (name, before temperature, after), as words.
        sets: Sentences on sets of classes.
        unknown: Sentences on things that are no class.
        study: Sentences on how well they are found.
        curve: Accuracy by the share of images answered.
        thresholds: (wanted accuracy, threshold, share answered, accuracy, its interval), as words; of those that can be
            reached.
        out_of_reach: The wanted accuracies that cannot, as words.
    """

    calibration: list[tuple[str, str, str]]
    sets: list[str]
    unknown: list[str]
    study: list[str]
    curve: Markup
    thresholds: list[tuple[str, str, str, str, str]]
    out_of_reach: str


def confidence_view(metrics: RunMetrics) -> ConfidenceView | None:
    """Return what the report shows; None for a file of an earlier version."""
    found = metrics.confidence
    if found is None:
        return None
    return ConfidenceView(
        calibration=_calibration(found),
        sets=_sets(metrics, found.sets),
        unknown=_unknown(found.unknown),
        study=_study(found.unknown),
        curve=risk_coverage_curve(found.risk),
        thresholds=[(percent(row.accuracy, 0), *_answered(row.test)) for row in found.wanted if row.test],
        out_of_reach=join([percent(row.accuracy, 0) for row in found.wanted if not row.test], "or"),
    )


def sets_sentence(sets: Sets) -> str:
    """What sets of classes came to on the test images, in one sentence."""
    return (
        f"Sets of classes made to hold the true class of {percent(sets.coverage, 0)} of the images held that of "
        f"{percent(sets.covered)} of the test images (95% interval {percent_range(sets.covered_interval)}). A set has "
        f"{sets.mean_size:.2f} classes on average ({sets.size_interval[0]:.2f}–{sets.size_interval[1]:.2f}); "
        f"{percent(sets.single, 0)} of them name one class, and {percent(sets.empty, 0)} none."
    )


def measured_sentence(sets: Sets) -> str:
    """What the test images say against sets of classes: that they fell short, or are larger than need be; else nothing.

    Both only where the whole interval of what was measured is on one side of what was asked for.
    """
    wanted, covered = percent(sets.coverage, 0), percent(sets.covered)
    low, high = sets.covered_interval
    if high < sets.coverage:
        return (
            f"On the test images sets fell short: {covered} ({percent_range(sets.covered_interval)}), not {wanted}. "
            "These images are not like those that made the sets, and on them the sets of this run promise nothing "
            f"like {wanted}."
        )
    if low > sets.coverage and sets.mean_size > 1:
        return (
            f"On the test images sets held more than the {wanted} that were asked for, so they are larger than need "
            "be: where few images make them they err to that side, and where these are harder than the test images."
        )
    return ""


def promise_sentence(
    how: str, n_images: int, coverage: float, proven: float | None, chosen: Sequence[str] = ()
) -> str:
    """What is proven of sets of classes, for new images that are like the held-out ones.

    Args:
        how: How these were kept out of training: ``validation``, ``folds`` or ``leave-one-out``.
        n_images: How many there are.
        coverage: What is asked for, in (0, 1).
        proven: The coverage that is proven; None where nothing is.
        chosen: The settings that the same images chose.
    """
    wanted = percent(coverage, 1 if round(coverage * 1000) % 10 else 0)
    if n_images < fewest_images(coverage):
        return (
            f"Only {count(n_images, 'image')} were kept out of training, and sets for {wanted} need "
            f"{fewest_images(coverage)} or more: every set holds every class, so they promise nothing."
        )
    if how == "leave-one-out":
        said = (
            f"The sets are calibrated on {count(n_images, 'training image')}, each judged by a fit without it. Nothing "
            "is proven: what was measured is all there is to rely on."
        )
    elif how == "folds":
        said = (
            f"The sets are calibrated by cross-validation on {count(n_images, 'training image')} (CV+). "
            + (
                f"Proven for new images like these is {percent(proven)} or more"
                if proven
                else "For so few nothing is proven"
            )
            + f"; usually it is near {wanted}, and less where training images are more like each other than new ones."
        )
    else:
        said = (
            f"The sets are calibrated on {count(n_images, 'validation image')}. Proven for new images like these is "
            f"{wanted} or more, on average over draws of such images."
        )
    if chosen:
        said += f" The same images chose {join(chosen)}, which the proof leaves out."
    return said


def alarm_sentence(how: str, n_images: int, rate: float) -> str:
    """How many images of the classes are called unknown, in one sentence; see ``promise_sentence``."""
    share = percent(rate, 0 if round(rate * 1000) % 10 == 0 else 1)
    images = count(n_images, "validation image" if how == "validation" else "training image")
    if n_images < fewest_images(1 - rate):
        return (
            f"With {images} held out, false alarms of {share} need {fewest_images(1 - rate)} or more: nothing is "
            "called unknown."
        )
    about = "at most" if how == "validation" else "about"
    return f"Of images like the {images} held out, {about} {share} are called unknown by mistake."


def _unknown(found: Unknown | None) -> list[str]:
    if found is None:
        return []
    rate = percent(found.rate, 0)
    lines = [
        f"Things that are no class (predict --unknown): at false alarms of {rate}, {percent(found.false_alarms)} of "
        f"the test images, all of known classes, are called unknown (95% interval {percent_range(found.interval)})."
    ]
    if found.study and found.study.auroc["together"] < _GUESSING:
        lines.append("Unknown things are found little better than by guessing here: do not rely on it.")
    return lines


def _study(found: Unknown | None) -> list[str]:
    if found is None or found.study is None:
        return []
    study, rate = found.study, percent(found.rate, 0)
    aurocs = join([f"{_UNKNOWN_WORDS[name]} {value:.2f}" for name, value in study.auroc.items()])
    return [
        f"With classes that play the unknown, a fifth of them or one at a time, {percent(study.caught, 0)} of "
        f"their {count(study.n_images, 'held-out image')} are found at false alarms of {rate}. How often an unknown "
        f"image scores as less known than a known one (0.5 is guessing): {aurocs}. The last one is used.",
        "Where training changed the image tower it did so with these classes, too, so a thing that is really new "
        "may be found less often.",
    ]


def _sets(metrics: RunMetrics, sets: Sets | None) -> list[str]:
    if sets is None:
        return [
            "No image was kept out of training to make sets of classes by, so nothing can be promised about them: fit "
            "with validation images, or by auto, linear-probe, gda, prototypes, proker or block-lora-gda, which judge "
            "each training image by a fit that has not seen it."
        ]
    chosen = [
        "the method" if name == "kept" else name.replace("_", " ")
        for name, choice in metrics.choices.items()
        if choice.by == "validation" and name != "temperature"
    ]
    lines = [
        sets_sentence(sets),
        promise_sentence(sets.how, sets.n_images, sets.coverage, sets.guaranteed, chosen),
    ]
    lines += [sentence for sentence in (measured_sentence(sets),) if sentence]
    if sets.worst_class:
        place, covered, n = sets.worst_class
        name = metrics.evaluation.per_class[place].class_name
        lines.append(
            f"The class that is covered least is {name}: {percent(covered, 0)} of its {count(n, 'test image')}. "
            "The share is meant for all classes together, unless sets are made by class (predict --by-class)."
        )
    return lines


def _calibration(found: Confidence) -> list[tuple[str, str, str]]:
    before, after = found.before, found.after
    return [
        ("Expected calibration error", percent(before.ece), percent(after.ece)),
        ("Brier score (0 to 2)", f"{before.brier:.3f}", f"{after.brier:.3f}"),
        ("Log loss (nats)", f"{before.nll:.3f}", f"{after.nll:.3f}"),
    ]


def _answered(test: Answered) -> tuple[str, str, str, str]:
    return (
        f"{test.threshold:.3f}",
        percent(test.answered, 0),
        percent(test.accuracy),
        percent_range(test.interval),
    )
