"""One contender, or several whose weighted mean probability predicts, fitted to all training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blocklora.classifier import Member, mixture_head
from blocklora.core.choices import Choice
from blocklora.methods.answers import OutOfFold
from blocklora.methods.held_out.judging import Contender, own_temperature
from blocklora.methods.method import FitResult, Job

__all__ = ["Fitted", "fit_member", "together"]


@dataclass(frozen=True)
class Fitted:
    """A contender that was fitted to all training images.

    Attributes:
        contender: The contender.
        result: Its fit.
        temperature: The one that the fit found for itself.
    """

    contender: Contender
    result: FitResult
    temperature: float


def fit_member(job: Job, contender: Contender) -> Fitted:
    """Fit a contender to all training images of a job with a bank."""
    checkpoint = job.checkpoint.part("all-images") if job.checkpoint and contender.trains_towers else None
    inner = replace(job, checkpoint=checkpoint, on_step=job.on_step if contender.trains_towers else None)
    result = contender.fit(inner, contender.settings)
    return Fitted(contender, result, own_temperature(job, result))


def together(
    job: Job,
    fitted: Sequence[Fitted],
    weights: Sequence[float],
    temperatures: Sequence[float],
    out_of_fold: OutOfFold | None,
) -> FitResult:
    """Return the one fit, or the classifier that mixes several.

    Args:
        job: With a bank.
        fitted: One, or two or three of which one at most adapts the image tower.
        weights: Of the probabilities of each.
        temperatures: What the logits of each are divided by, after the temperature that its fit found for itself.
        out_of_fold: What they said together of images that they were fitted without; it sets the temperature of the
            whole, and without validation images the classifier judges its answers by it.
    """
    if len(fitted) == 1:
        (one,) = fitted
        if out_of_fold:
            out_of_fold = replace(out_of_fold, logits=out_of_fold.logits * one.temperature)
        return _with_answers(job, one.result, out_of_fold)
    heads = [
        Member(one.result.classifier.head, weight, one.temperature * more, one.result.classifier.is_base)
        for one, weight, more in zip(fitted, weights, temperatures, strict=True)
    ]
    adapted = next((one for one in fitted if not one.result.classifier.is_base), fitted[0]).result
    result = FitResult(
        job.classifier(
            head=mixture_head(heads), adapter=adapted.classifier.adapter, image=adapted.classifier.image
        ),
        sum(one.result.trainable_parameters for one in fitted),
        _choices(fitted),
        adapted.training,
        adapted.engine,
        tuple(note for one in fitted for note in one.result.notes),
    )
    return _with_answers(job, result, out_of_fold)


def _with_answers(job: Job, result: FitResult, out_of_fold: OutOfFold | None) -> FitResult:
    """Return a result with what was said of held-out images."""
    held_out = out_of_fold.of_training(len(job.task.train)) if out_of_fold else None
    return replace(result, out_of_fold=out_of_fold, held_out=held_out)


def _choices(fitted: Sequence[Fitted]) -> dict[str, Choice]:
    """Return how each member's settings were chosen, by the names of method and setting."""
    names = ", ".join(one.contender.method for one in fitted)
    return {"settings": Choice(f"those of {names}", "fixed", "each member's own")} | {
        f"{one.contender.method}: {name}": choice
        for one in fitted
        for name, choice in one.result.choices.items()
    }
