"""What was tried, as facts for the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocklora.core.candidates import Candidate
from blocklora.core.choices import Choice
from blocklora.methods.answers import CROSS_VALIDATED, CROSS_VALIDATED_WITH_VAL
from blocklora.methods.auto.choose import Judged, why_not
from blocklora.methods.held_out.judging import Contender, Record
from blocklora.methods.held_out.scores import Scores

__all__ = ["candidates", "choices"]


def candidates(
    judged: Sequence[Judged],
    silent: Sequence[tuple[Contender, Record]],
    left_out: Mapping[str, str],
    dropped: Mapping[str, str],
    weights: Mapping[str, float],
    kept: Scores,
) -> tuple[Candidate, ...]:
    """Return everything that was tried, or left out, and why it was kept or was not.

    Args:
        judged: The contenders that were judged, by one part or more.
        silent: Those that were begun and came to nothing.
        left_out: Those that the plan left out, by method, and why.
        dropped: Why some of the judged are out of the choice, by key.
        weights: Of the members that were kept, by key.
        kept: The scores of what was kept.
    """
    found = []
    for one in judged:
        key = one.contender.key
        if key in weights:
            why = "the best" if len(weights) == 1 else f"in the mixture, with weight {weights[key]:.2f}"
        else:
            why = dropped.get(key) or why_not(one, kept)
        found.append(_candidate(one, key in weights, why))
    found += [
        Candidate(
            contender.method,
            False,
            record.given_up,
            _ready(contender.given),
            seconds=sum(record.seconds.values()),
        )
        for contender, record in silent
    ]
    return (*found, *(Candidate(name, False, f"not tried: {why}") for name, why in left_out.items()))


def choices(
    members: Sequence[Judged], weights: Sequence[float], kept: Scores, tried: int, *, validated: bool
) -> dict[str, Choice]:
    """Return how the method, and the weights of a mixture, were chosen.

    Args:
        members: What was kept.
        weights: Of each.
        kept: The scores of what was kept.
        tried: How many contenders there were to choose from.
        validated: Whether validation images judged as well.
    """
    reason = CROSS_VALIDATED_WITH_VAL if validated else CROSS_VALIDATED
    names = tuple(one.contender.method for one in members)
    facts: Mapping[str, Any] = {"by": "validation", "reason": reason, "n_images": len(kept.images)}
    found = {
        "kept": Choice(
            names if len(names) > 1 else names[0],
            candidates=tried,
            score=kept.log_loss,
            score_name="log loss",
            **facts,
        )
    }
    if len(names) > 1:
        found["weights"] = Choice(tuple(round(weight, 4) for weight in weights), **facts)
    return found


def _candidate(one: Judged, kept: bool, why: str) -> Candidate:
    return Candidate(
        one.contender.method,
        kept,
        why,
        _ready(one.contender.given),
        len(one.scores.images),
        one.scores.log_loss,
        _error(one.scores.losses),
        one.scores.accuracy,
        _error(one.scores.correct),
        sum(one.record.seconds.values()),
    )


def _error(values: NDArray[np.float64]) -> float:
    """Return the standard error of the mean of values (I,)."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _ready(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings ready for JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
