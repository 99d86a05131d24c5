"""Which contender is kept, or which of them together: by what was said of held-out images.

Axes: I = images, K = members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from blocklora.classifier.heads import MOST_MEMBERS
from blocklora.methods.held_out.judging import Contender, Record
from blocklora.methods.held_out.parts import Part
from blocklora.methods.held_out.scores import Mixture, Scores, difference, mixture

__all__ = ["Judged", "best_mixture", "best_of", "why_not"]

_LEAST_WEIGHT = 0.02  # a member that counts less is none


@dataclass(frozen=True)
class Judged:
    """A contender that all parts judged, what is known of it, and its scores."""

    contender: Contender
    record: Record
    scores: Scores


def best_of(judged: Sequence[Judged]) -> Judged:
    """Return the contender to keep.

    Of those whose accuracy is within one standard error of the highest it is the one of the lowest log loss; or an
    earlier one, which is cheaper, that is as accurate and whose log loss is within one standard error of that. One that
    the time let fewer images judge takes its place where it is better by more than one standard error. Standard errors
    are those of differences on the same images.

    Args:
        judged: One or more, the cheapest first.
    """
    most = max(len(one.scores.images) for one in judged)
    whole = [one for one in judged if len(one.scores.images) == most]
    most_accurate = max(whole, key=lambda one: (one.scores.accuracy, -one.scores.log_loss))
    near = [one for one in whole if _as_accurate(one, most_accurate)]
    best = min(near, key=lambda one: one.scores.log_loss)
    for one in near:
        gap, error = difference(one.scores, best.scores, "losses")
        if one is best or (one.scores.accuracy >= best.scores.accuracy and gap <= error):
            best = one
            break
    for one in judged:
        if one not in whole and _better(one.scores, best.scores):
            best = one
    return best


def best_mixture(
    best: Judged, judged: Sequence[Judged], parts: Sequence[Part], labels: Tensor
) -> tuple[list[Judged], Mixture] | None:
    """Return the members of the mixture that beats the best contender, and the mixture; None where none does.

    It grows from the best one by the member that lowers the log loss most, up to three, of which one may change the
    image tower. It must be no less accurate than the best one alone, and its log loss lower by more than one standard
    error of the difference on the same images; and so must each member more, against the mixture without it. The
    labels (M + V,) are those of training images, then validation images.
    """
    members, kept = [best], None
    before = best.scores
    while len(members) < MOST_MEMBERS:
        found = [
            (mixture([one.record.logits for one in (*members, other)], parts, labels), other)
            for other in judged
            if other not in members
            and not (other.contender.adapts and any(one.contender.adapts for one in members))
        ]
        if not found:
            break
        new, other = min(found, key=lambda pair: difference(pair[0].scores, before, "losses"))
        if not _better(new.scores, before) or not _better(new.scores, best.scores):
            break
        if min(new.weights) < _LEAST_WEIGHT:
            break
        members, kept, before = [*members, other], new, new.scores
    return (members, kept) if kept else None


def why_not(one: Judged, kept: Scores) -> str:
    """Say in a few words why a contender was passed over."""
    gap, error = difference(one.scores, kept, "losses")
    right, _ = difference(one.scores, kept, "correct")
    return f"log loss {gap:+.3f} ± {error:.3f}, accuracy {100 * right:+.1f} points against what was kept"


def _as_accurate(one: Judged, most: Judged) -> bool:
    gap, error = difference(most.scores, one.scores, "correct")
    return gap <= error


def _better(new: Scores, old: Scores) -> bool:
    """Return whether a log loss is lower by more than a standard error on the same images, at no cost in accuracy."""
    gap, error = difference(old, new, "losses")
    right, _ = difference(new, old, "correct")
    return gap > error and right >= 0
