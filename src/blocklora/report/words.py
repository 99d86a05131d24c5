"""Numbers and findings in plain words. Pure functions from metrics to strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Verdict",
    "calibration_sentence",
    "count",
    "duration",
    "memory",
    "percent",
    "percent_range",
    "run_sentence",
    "verdict",
]


def percent(share: float | None, digits: int = 1) -> str:
    """0.931 -> "93.1%"; None -> an en dash. Only all is "100.0%" and only none is "0.0%"."""
    if share is None:
        return "–"
    least = 10.0**-digits
    if 0 < 100 * share < least / 2:
        return f"<{least:.{digits}f}%"
    if 100 - least / 2 < 100 * share < 100:
        return f">{100 - least:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"


def percent_range(interval: Sequence[float] | None, digits: int = 1) -> str:
    """[0.905, 0.951] -> "90.5–95.1%"; None -> an en dash."""
    return "–" if interval is None else f"{100 * interval[0]:.{digits}f}–{100 * interval[1]:.{digits}f}%"


def count(n: int, noun: str) -> str:
    """(1200, "picture") -> "1,200 pictures". "class" becomes "classes"."""
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


@dataclass(frozen=True)
class Verdict:
    """Whether adapting helped: a kind for the colour, a headline, and the evidence."""

    kind: Literal["better", "worse", "same"]
    headline: str
    evidence: str


def verdict(metrics: Mapping[str, Any]) -> Verdict | None:
    """Compare adapted with zero-shot. Clear only if the interval excludes 0 and p < 0.05 too.

    Args:
        metrics: With the ``difference`` that ``metrics.evaluate`` gives; None comes back without it.

    Returns:
        The verdict in plain words.
    """
    difference = metrics.get("difference")
    if not difference:
        return None
    value, (low, high), p_value = difference["value"], difference["interval"], difference["p_value"]
    clear = p_value < 0.05 and (low > 0 or high < 0)
    points = f"{100 * abs(value):.1f} points"
    kind: Literal["better", "worse", "same"]
    if not clear:
        kind, headline = "same", f"No clear difference from zero-shot ({_signed(value)} points)"
    elif value > 0:
        kind, headline = "better", f"Better than zero-shot by {points}"
    else:
        kind, headline = "worse", f"Worse than zero-shot by {points}"
    p_text = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
    evidence = f"95% interval of the difference {_signed(low)} to {_signed(high)} points, {p_text}"
    evidence += f", on the same {count(metrics['n_test'], 'picture')}."
    if "only_adapted" in difference:
        evidence += (
            f" {difference['only_adapted']:,} of them only the adapted model gets right, "
            f"{difference['only_zero_shot']:,} only zero-shot."
        )
    return Verdict(kind, headline, evidence)


def run_sentence(metrics: Mapping[str, Any]) -> str:
    """What was run, in one sentence; what is not known is left out."""
    model = metrics.get("model") or "The model"
    classes = count(metrics["n_classes"], "class")
    n_train = metrics.get("n_train")
    test = f"tested on {count(metrics['n_test'], 'picture')}"
    of = f"the {classes} of {metrics['dataset']}" if metrics.get("dataset") else classes
    if n_train == 0 or metrics.get("method") == "zero-shot":
        return f"{model} was {test} of {of}, without training."
    how = f" with {metrics['method']}" if metrics.get("method") else ""
    details = [f"seed {metrics['seed']}"] if metrics.get("seed") is not None else []
    if metrics.get("shots") is not None:
        details.insert(0, f"up to {metrics['shots']:,} a class")
    if metrics.get("n_val"):
        details.append(f"{metrics['n_val']:,} more for validation")
    on = f", on {count(n_train, 'picture')}" if n_train else ""
    bracket = f" ({', '.join(details)})" if details else ""
    return f"{model} was adapted{how} to {of}{on}{bracket}, then {test}."


def calibration_sentence(metrics: Mapping[str, Any]) -> str | None:
    """The expected calibration error, and to which side it leans, in plain words."""
    bins, ece = metrics.get("reliability"), metrics.get("ece")
    if not bins or ece is None:
        return None
    pairs = zip(bins["counts"], bins["confidence"], strict=True)
    confidence = sum(n * mean for n, mean in pairs if n) / sum(bins["counts"])
    gap = confidence - metrics["accuracy"]
    lean = "about as sure as it should be" if abs(gap) < 0.02 else "too sure" if gap > 0 else "too modest"
    return (
        f"Expected calibration error {percent(ece)}: how far, on average, the probability given to an answer "
        f"is from how often such answers are right. Overall the model is {lean}: its answers get "
        f"{percent(confidence)} on average, and {percent(metrics['accuracy'])} of them are right."
    )


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text
