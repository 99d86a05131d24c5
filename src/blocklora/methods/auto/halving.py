"""Successive halving of Block-LoRA's settings: all are judged on one part, the better half on the next, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from blocklora.methods.held_out.judging import Contender, Record, judged
from blocklora.methods.held_out.parts import Part
from blocklora.methods.held_out.scores import scores
from blocklora.methods.method import Job

__all__ = ["halved"]


def halved(
    job: Job,
    contenders: Sequence[Contender],
    parts: Sequence[Part],
    labels: Tensor,
    *,
    give_up: Callable[[], str],
) -> tuple[dict[str, Record], dict[str, str]]:
    """Judge contenders on the parts of the first repetition; after each part the worse half by log loss is dropped.

    Args:
        job: With a bank.
        contenders: The most promising first.
        parts: All of them.
        labels: Of training images, then validation images.
        give_up: Returns why nothing more may be started; empty where it may.

    Returns:
        What is known of each, by its key, and why it was dropped, if it was.
    """
    numbers = [number for number, part in enumerate(parts) if part.repetition == 0]
    records: dict[str, Record] = {}
    dropped: dict[str, str] = {}
    left = list(contenders)
    for round_ in range(1, len(numbers) + 1):
        for one in left:
            if job.on_part:
                job.on_part(f"{one.method}, {_words(one)}, part {round_} of {len(numbers)}")
            records[one.key] = judged(job, one, parts, numbers[:round_], give_up=give_up)
        for one in left:
            if records[one.key].given_up:
                dropped[one.key] = records[one.key].given_up
        whole = [one for one in left if one.key not in dropped]
        by_loss = sorted(whole, key=lambda one: scores(records[one.key].logits, parts, labels)[0].log_loss)
        half = -(-len(by_loss) // 2)
        for one in by_loss[half:]:
            dropped[one.key] = f"halving: it was among the worse after {round_} of {len(numbers)} parts"
        left = by_loss[:half]
    return records, dropped


def _words(one: Contender) -> str:
    given = one.given
    return f"lr {given['lr']:g}, {given['towers']} tower{'s' * (given['towers'] == 'both')}, {given['layers']} layers"
