"""Figures and findings in plain words. Pure functions from facts to strings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from blocklora.core.choices import Choice, Scalar
from blocklora.metrics import Reliability
from blocklora.report.run_metrics import AddedClass, RunMetrics

__all__ = [
    "Score",
    "Verdict",
    "added_sentences",
    "calibration_sentence",
    "choice_sentence",
    "chosen",
    "count",
    "duration",
    "join",
    "mean_confidence",
    "memory",
    "p_value",
    "p_words",
    "percent",
    "percent_range",
    "run_sentence",
    "scores",
    "selection",
    "short_names",
    "signed",
    "verdict",
]

SEALED = (("test images", "looked at once, after training had ended; nothing was chosen by them"),)


def percent(share: float | None, digits: int = 1) -> str:
    """0.931 -> "93.1%"; None -> an en dash. Only all is "100.0%" and only none is "0.0%"."""
    if share is None:
        return "–"
    least = 10.0**-digits
    if 0 < 100 * share <= least / 2:
        return f"<{least:.{digits}f}%"
    if 100 - least / 2 <= 100 * share < 100:
        return f">{100 - least:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"


def percent_range(interval: Sequence[float] | None, digits: int = 1) -> str:
    """[0.905, 0.951] -> "90.5–95.1%"; None -> an en dash."""
    return "–" if interval is None else f"{100 * interval[0]:.{digits}f}–{100 * interval[1]:.{digits}f}%"


def count(n: int, noun: str) -> str:
    """(1200, "image") -> "1,200 images". "class" becomes "classes"."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{n:,} {noun if n == 1 else plural}"


def duration(seconds: float) -> str:
    """192.3 -> "3 min 12 s"."""
    if seconds < 9.95:  # what is not written as 10.0
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min {whole % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def memory(n_bytes: float) -> str:
    """431_000_000 -> "411 MiB"."""
    mebibytes = n_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1023.5 else f"{mebibytes / 1024:.1f} GiB"


def signed(share: float) -> str:
    """0.104 -> "+10.4", in points; what rounds to 0 has no sign."""
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def p_value(p: float) -> str:
    """0.0312 -> "0.031"; 0.0001 -> "<0.001"."""
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def p_words(p: float) -> str:
    """0.0312 -> "p = 0.031"; 0.0001 -> "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p_value(p)}"


def join(words: Sequence[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def short_names(images: Sequence[str]) -> dict[str, str]:
    """Images named by absolute paths without the folder that they share, so that a page tells nothing of the disk.

    Args:
        images: Names of images; a relative one stays as it is.

    Returns:
        What to show, by name.
    """
    absolute = {name: re.split(r"[\\/]", name) for name in images if re.match(r"/|\\\\|[A-Za-z]:[\\/]", name)}
    folders = [parts[:-1] for parts in absolute.values()]
    levels = list(zip(*folders, strict=False))
    shared = next((depth for depth, level in enumerate(levels) if len(set(level)) > 1), len(levels))
    return {name: "/".join(absolute[name][shared:]) if name in absolute else name for name in images}


@dataclass(frozen=True)
class Score:
    """One accuracy of the headline: what it is of, its value, and its interval."""

    name: Literal["Accuracy", "Adapted", "Zero-shot"]
    value: float
    interval: tuple[float, float]


def scores(metrics: RunMetrics) -> list[Score]:
    """Return the accuracies of the headline: zero-shot once, or adapted and, if it is known, zero-shot."""
    found = metrics.evaluation
    if metrics.method == "zero-shot":
        return [Score("Zero-shot", found.accuracy, found.accuracy_interval)]
    if found.zero_shot_accuracy is None or found.zero_shot_interval is None:
        return [Score("Accuracy", found.accuracy, found.accuracy_interval)]
    return [
        Score("Adapted", found.accuracy, found.accuracy_interval),
        Score("Zero-shot", found.zero_shot_accuracy, found.zero_shot_interval),
    ]


@dataclass(frozen=True)
class Verdict:
    """Whether adapting helped: a kind for the colour, a headline, and the evidence."""

    kind: Literal["better", "worse", "same"]
    headline: str
    evidence: str


def verdict(metrics: RunMetrics) -> Verdict | None:
    """Compare adapted with zero-shot. Clear only if the interval excludes 0 and p < 0.05 too.

    Returns:
        The verdict in plain words; None where nothing was adapted or nothing is known of zero-shot.
    """
    found = metrics.evaluation.difference
    if found is None or metrics.method == "zero-shot":
        return None
    low, high = found.interval
    points = f"{100 * abs(found.value):.1f} points"
    kind: Literal["better", "worse", "same"]
    if found.p_value >= 0.05 or low <= 0 <= high:
        kind, headline = "same", f"No clear difference from zero-shot ({signed(found.value)} points)"
    elif found.value > 0:
        kind, headline = "better", f"Better than zero-shot by {points}"
    else:
        kind, headline = "worse", f"Worse than zero-shot by {points}"
    evidence = (
        f"95% interval of the difference {signed(low)} to {signed(high)} points, {p_words(found.p_value)}, on the same "
        f"{count(metrics.evaluation.n_test, 'image')}. The adapted model alone is correct on "
        f"{found.only_adapted:,} of them, zero-shot alone on {found.only_zero_shot:,}."
    )
    return Verdict(kind, headline, evidence)


def run_sentence(metrics: RunMetrics) -> str:
    """What was run, in one sentence; what is not known is left out."""
    found = metrics.evaluation
    model = short_names([metrics.model])[metrics.model] if metrics.model else "The model"
    classes = count(found.n_classes, "class")
    of = f"the {classes} of {metrics.dataset}" if metrics.dataset else classes
    test = f"tested on {count(found.n_test, 'image')}"
    if metrics.n_train == 0 or metrics.method == "zero-shot":
        return f"{model} was {test} of {of}, without training."
    how = f" with {metrics.method}" if metrics.method else ""
    on = f", on {count(metrics.n_train, 'image')}" if metrics.n_train else ""
    return f"{model} was adapted{how} to {of}{on}{_details(metrics)}, then {test}."


def added_sentences(added: AddedClass) -> list[str]:
    """Where a run with a class more came from, and what became of the classes that were there."""
    images = count(added.n_images, "image")
    how = {
        "name": "by its name, without training",
        "features": f"by the features of {images}, without training",
        "training": f"by training on {images} of it and those of the other classes",
    }[added.how]
    own = (
        f"Of {count(added.n_held_out, 'held-out image')} of {added.name}, {percent(added.own)} are recognised (95% "
        f"interval {percent_range(added.own_interval)})."
        if added.n_held_out
        else f"No image of {added.name} was held out, so nobody knows how well it is recognised."
    )
    return [
        f"The class {added.name} was added to {short_names([added.run])[added.run]} {how}.",
        f"On the {count(added.n_test, 'test image')} of the other classes the accuracy was {percent(added.before)} "
        f"({percent_range(added.before_interval)}) before, and is {percent(added.after)} "
        f"({percent_range(added.after_interval)}) now.",
        own,
    ]


def _details(metrics: RunMetrics) -> str:
    """Shots, seed and validation images, in brackets."""
    known = [
        None if metrics.shots is None else f"up to {metrics.shots:,} a class",
        None if metrics.seed is None else f"seed {metrics.seed}",
        f"{metrics.n_val:,} more for validation" if metrics.n_val else None,
    ]
    words = ", ".join(part for part in known if part)
    return f" ({words})" if words else ""


def mean_confidence(bins: Reliability) -> float:
    """The mean probability of the predicted class, in [0, 1]."""
    pairs = zip(bins.counts, bins.confidence, strict=True)
    return sum(n * (mean or 0.0) for n, mean in pairs) / sum(bins.counts)


def calibration_sentence(metrics: RunMetrics) -> str:
    """The expected calibration error, and to which side it leans, in plain words."""
    found = metrics.evaluation
    confidence = mean_confidence(found.reliability)
    gap = confidence - found.accuracy
    lean = (
        "about as sure as it should be" if abs(gap) < 0.02 else "too sure" if gap > 0 else "not sure enough"
    )
    return (
        f"Expected calibration error {percent(found.ece)}: how far, on average, the probability of a predicted class "
        f"is from how often such predictions are correct. Overall the model is {lean}: its predictions have a "
        f"probability of {percent(confidence)} on average, and {percent(found.accuracy)} of them are correct."
    )


def choice_sentence(choice: Choice) -> str:
    """The value and how it was chosen: "31.6: the best of 25 on 40 validation images (accuracy 92.3%)"."""
    return f"{_value(choice.value)}: {_how(choice)}"


def chosen(choices: Mapping[str, Choice], old_selection: Mapping[str, str]) -> list[tuple[str, str]]:
    """How everything was chosen, as (name, sentence); what was fixed for one reason stands together."""
    lines = [(name, choice_sentence(choice)) for name, choice in choices.items() if choice.by == "validation"]
    fixed: dict[str, list[str]] = {}
    for name, choice in choices.items():
        if choice.by == "fixed":
            fixed.setdefault(choice.reason, []).append(f"{name} {_value(choice.value)}")
    together = [(reason, ", ".join(values)) for reason, values in fixed.items()]
    known = [*lines, *together, *old_selection.items()]
    return [(name.replace("_", " "), text) for name, text in [*known, *(SEALED if known else ())]]


def selection(choices: Mapping[str, Choice], old_selection: Mapping[str, str]) -> dict[str, str]:
    """How everything was chosen, a sentence for each name; empty where nothing is known of it."""
    known = {**old_selection, **{name: choice_sentence(choice) for name, choice in choices.items()}}
    return known | dict(SEALED) if known else {}


def _how(choice: Choice) -> str:
    if choice.by == "fixed":
        return choice.reason
    how = "fitted to" if choice.candidates == 1 else f"the best of {choice.candidates:,} on"
    images = count(choice.n_images, "image" if choice.reason else "validation image")
    reason = f", {choice.reason}" if choice.reason else ""
    return f"{how} {images}{_score(choice)}{reason}"


def _score(choice: Choice) -> str:
    if choice.score is None:
        return ""
    score = percent(choice.score) if choice.score_name == "accuracy" else f"{choice.score:.3f}"
    return f" ({choice.score_name} {score})"


def _value(value: Scalar | tuple[Scalar, ...]) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(_value, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
