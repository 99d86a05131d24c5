"""The kept contender, or the kept mixture, fitted to all training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blocklora.classifier import Member, mixture_head
from blocklora.core.choices import Choice
from blocklora.methods.held_out.judging import Contender, own_temperature
from blocklora.methods.method import FitResult, HeldOut, Job

__all__ = ["KeptMember", "fit_kept"]


@dataclass(frozen=True)
class KeptMember:
    """A contender to be fitted to all training images.

    Attributes:
        contender: The contender.
        weight: Of its probabilities.
        temperature: What its logits are divided by, after the temperature that its fit finds for itself.
    """

    contender: Contender
    weight: float
    temperature: float


def fit_kept(job: Job, members: Sequence[KeptMember], held_out: HeldOut) -> FitResult:
    """Fit one contender, or several whose weighted mean probability predicts, to all training images.

    Args:
        job: With a bank.
        members: One, or two or three of which one at most adapts the image tower.
        held_out: What they said together of held-out images; it sets the temperature of the whole.
    """
    fitted = []
    for member in members:
        adapts = member.contender.adapts
        checkpoint = job.checkpoint.part("auto-final") if job.checkpoint and adapts else None
        inner = replace(job, deadline=None, checkpoint=checkpoint, on_step=job.on_step if adapts else None)
        result = member.contender.fit(inner, member.contender.settings)
        fitted.append((member, result, own_temperature(job, result)))
    if len(fitted) == 1:
        _, result, own = fitted[0]
        return replace(result, held_out=replace(held_out, logits=held_out.logits * own))
    heads = [
        Member(result.classifier.head, member.weight, own * member.temperature, result.classifier.is_base)
        for member, result, own in fitted
    ]
    adapted = next((result for _, result, _ in fitted if not result.classifier.is_base), fitted[0][1])
    return FitResult(
        job.classifier(
            head=mixture_head(heads), adapter=adapted.classifier.adapter, image=adapted.classifier.image
        ),
        sum(result.trainable_parameters for _, result, _ in fitted),
        _choices(fitted),
        adapted.training,
        adapted.engine,
        tuple(note for _, result, _ in fitted for note in result.notes),
        held_out,
    )


def _choices(fitted: Sequence[tuple[KeptMember, FitResult, float]]) -> dict[str, Choice]:
    """Return how each member's settings were chosen, by the names of method and setting."""
    return {
        f"{member.contender.method}: {name}": choice
        for member, result, _ in fitted
        for name, choice in result.choices.items()
    }
