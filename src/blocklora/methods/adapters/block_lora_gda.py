"""Block-LoRA and GDA on the frozen features together: the weighted mean of their probabilities.

The two know different things: Block-LoRA learns features from the images, GDA the shape of the classes among the
features that were there (docs/methods.md has the figures, and those of other partners). Weights and temperatures are
those that make held-out images most probable: validation images; without any each training image is judged by fits that
did not see it, so Block-LoRA is fitted once more for every fold. Where neither is possible the two weigh the same. GDA
chooses its alpha by cross-validation on the training images. A prediction takes two passes of the image tower.
No published recipe of the mixture is followed; Block-LoRA's and GDA's own are those of their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from blocklora.core.choices import Choice
from blocklora.core.deadline import Deadline
from blocklora.core.errors import ConfigError
from blocklora.methods.adapters import block_lora
from blocklora.methods.adapters.block_lora import BlockLoraSettings
from blocklora.methods.frozen import gda
from blocklora.methods.frozen.features import labels_of
from blocklora.methods.held_out.judging import Contender, judged, logits_of, with_bank
from blocklora.methods.held_out.parts import Part, cut
from blocklora.methods.held_out.scores import Mixture, mixture, scores
from blocklora.methods.held_out.together import Fitted, again, fit_member, together
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need_whole

__all__ = ["METHOD", "BlockLoraGdaSettings", "fit", "fit_with_partner"]

_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class BlockLoraGdaSettings(BlockLoraSettings):
    """How to adapt CLIP, and how to weigh; the other attributes are those of ``AdapterSettings``.

    Attributes:
        folds: How often Block-LoRA is fitted to a part of the images, where no validation images weigh the two.
    """

    folds: int = 3

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need_whole(self, "folds")


def fit(job: Job, settings: BlockLoraGdaSettings) -> FitResult:
    """Fit both, and weigh them."""
    return fit_with_partner(job, settings, Contender("gda", "gda", gda.fit, gda.GdaSettings()))


def fit_with_partner(job: Job, settings: BlockLoraGdaSettings, partner: Contender) -> FitResult:
    """Fit Block-LoRA and a partner on frozen features, and weigh them by what they say of held-out images."""
    own = Contender("block-lora", "block-lora", block_lora.fit, settings, adapts=True, trains_towers=True)
    limit = job.deadline
    job, both = with_bank(job), (own, partner)
    blind = job.on_images(job.task.train, ())  # validation images weigh, so they choose nothing before
    if job.task.val:
        n = len(job.task.train)
        parts = [Part(job.task.train, (), tuple(range(n, n + len(job.task.val))), validated=True)]
        fitted = [fit_member(replace(blind, deadline=limit), one) for one in both]
        said = [{0: logits_of(job, one.result.classifier, job.task.val) / one.temperature} for one in fitted]
    else:
        parts = cut(blind.task, job.seed, folds=settings.folds)
        said = [_held_out(blind, one, parts, limit) for one in both]
        fitted = [fit_member(replace(blind, deadline=limit), one) for one in both]
    if not parts:
        result = together(job, fitted, (0.5, 0.5), (1.0, 1.0), None)
        same = again(len(job.task.train), fitted, (0.5, 0.5), (1.0, 1.0))
        return replace(result, notes=_unweighed(fitted), again=same)
    labels = torch.cat([labels_of(job.task.train), labels_of(job.task.val)])
    mixed = mixture(said, parts, labels)
    temperatures = [scores(one, parts, labels)[0].temperature for one in said]
    weights = tuple(max(weight, _LEAST_WEIGHT) for weight in mixed.weights)
    weights = tuple(weight / sum(weights) for weight in weights)
    result = together(job, fitted, weights, temperatures, mixed.out_of_fold)
    same = again(len(job.task.train), fitted, weights, temperatures)
    return replace(result, choices={**result.choices, **_weighed(both, weights, mixed)}, again=same)


def _held_out(
    job: Job, contender: Contender, parts: Sequence[Part], limit: Deadline | None
) -> dict[int, torch.Tensor]:
    """Return what fits to parts of the images say of the others (m, N), by the part; a time limit is shared evenly."""
    found: dict[int, torch.Tensor] = {}
    for number in range(len(parts)):
        deadline = None
        if limit and contender.adapts:
            deadline = Deadline(limit.left() / (len(parts) - number + 1))
        record = judged(job, contender, parts, [number], deadline=deadline)
        if record.given_up:
            raise ConfigError(f"{contender.method}: {record.given_up}")
        found[number] = record.logits[number]
    return found


def _weighed(both: Sequence[Contender], weights: Sequence[float], mixed: Mixture) -> dict[str, Choice]:
    """Return how the weights were chosen."""
    value = tuple(f"{one.method} {weight:.3f}" for one, weight in zip(both, weights, strict=True))
    choice = Choice(
        value,
        "validation",
        mixed.out_of_fold.reason,
        n_images=mixed.out_of_fold.n_images,
        score=mixed.scores.log_loss,
        score_name="log loss",
    )
    return {"weights": choice}


def _unweighed(fitted: Sequence[Fitted]) -> tuple[str, ...]:
    """Say that nothing could weigh the two."""
    notes = tuple(note for one in fitted for note in one.result.notes)
    return (*notes, "every class has one image and there are no validation images, so both weigh the same")


METHOD = Method(fit, BlockLoraGdaSettings)
