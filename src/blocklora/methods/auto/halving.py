"""Successive halving of Block-LoRA's settings: all are judged on one part, the better half on the next, and so on.

Where the time gets short the last one is judged by fewer parts, at least half of them: a fit to all images must still
be possible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from blocklora.methods.held_out.judging import Contender, Record, given_up, judged
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
    short: Callable[[float], bool],
) -> tuple[dict[str, Record], dict[str, str]]:
    """Judge contenders on the parts of the first repetition; after each part the worse half by log loss is dropped.

    Args:
        job: With a bank.
        contenders: The most promising first.
        parts: All of them.
        labels: Of M training images, then V validation images (M + V,).
        give_up: Returns why nothing more may be started; empty where it may.
        short: Returns whether there is no time for two more fits that take so many seconds each.

    Returns:
        What is known of each, by its key, and why it was dropped, if it was. One that was given up after half of the
        parts or more is not dropped.
    """
    numbers = [number for number, part in enumerate(parts) if part.repetition == 0]
    records: dict[str, Record] = {}
    dropped: dict[str, str] = {}
    left = list(contenders)
    for round_ in range(1, len(numbers) + 1):
        for one in left:
            known = records.get(one.key)
            if known and _enough(known, numbers) and short(max(known.seconds.values())):
                why = f"the time was short, so {len(known.logits)} of {len(numbers)} parts judged it"
                records[one.key] = given_up(job, one, known, why)
                continue
            if job.on_part:
                job.on_part(f"{one.method}, {_words(one)}, part {round_} of {len(numbers)}")
            records[one.key] = judged(job, one, parts, numbers[:round_], known=known, give_up=give_up)
        for one in left:
            if records[one.key].given_up and not _enough(records[one.key], numbers):
                dropped[one.key] = records[one.key].given_up
        going = [one for one in left if not records[one.key].given_up]
        by_loss = sorted(going, key=lambda one: scores(records[one.key].logits, parts, labels)[0].log_loss)
        half = -(-len(by_loss) // 2)
        for one in by_loss[half:]:
            dropped[one.key] = f"halving: it was among the worse after {round_} of {len(numbers)} parts"
        left = by_loss[:half]
    return records, dropped


def _enough(record: Record, numbers: Sequence[int]) -> bool:
    """Return whether so many parts judged a contender that it can be chosen."""
    return 2 * len(record.logits) >= len(numbers)


def _words(one: Contender) -> str:
    given = one.given
    return f"lr {given['lr']:g}, {given['towers']} tower{'s' * (given['towers'] == 'both')}, {given['layers']} layers"
