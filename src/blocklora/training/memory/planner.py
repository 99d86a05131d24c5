"""Which plan a training step follows: the fastest one whose predicted peak fits into memory.

Every way to cut a step (``Plan``) costs some FLOPs and some memory, both counted from shapes by ``costs``. All sensible
ways are priced, and the fastest that fits is taken; what would follow if memory ran out all the same comes behind it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from blocklora.clip.lean import Keep
from blocklora.clip.text_plan import Group
from blocklora.core.errors import ConfigError
from blocklora.core.resources import format_bytes
from blocklora.core.threads import results_held
from blocklora.training.memory.costs import Cost, TowerShape, image_rows, text_rows, tower_cost
from blocklora.training.softmax import CLASSES_AT_ONCE
from blocklora.training.step import Plan

__all__ = [
    "ModelShape",
    "Need",
    "Priced",
    "Workload",
    "choose_plans",
    "exchanged_bytes",
    "frozen_image_flops",
    "price",
]

_KEEPS: tuple[Keep, ...] = ("all", "no-mlp", "inputs")
_PASS_FLOPS = 2e9  # what starting one more pass costs beside its products, for the choice only
_STATE_COPIES = 4  # of every trainable parameter: itself, its gradient, AdamW's two moments
_SMALLEST_CHUNK = 8
_NEXT = 0.75  # a plan to fall back to needs at most this share of the memory of the one before
# Measured peaks over counted ones. A GPU's allocator loses a little between blocks of memory. On a CPU the process's
# size is what is measured, and glibc's allocator, to which these are fitted, gives little back between passes.
_SLACK, _CPU_SLACK, _CPU_SLACK_BETWEEN_PASSES = 1.08, 1.25, 1.8


@dataclass(frozen=True)
class ModelShape:
    """A CLIP model by its shape.

    Attributes:
        vision: The image tower.
        text: The text tower.
        tokens: Tokens of an image, the class token included.
        side: Side of an image in pixels.
        space: Width of the shared space.
        parameters: Parameters of the frozen model.
        trained: Trainable parameters.
    """

    vision: TowerShape
    text: TowerShape
    tokens: int
    side: int
    space: int
    parameters: int
    trained: int


@dataclass(frozen=True)
class Workload:
    """What one step has to do.

    Attributes:
        model: The model's shape.
        images: Images of a batch.
        lengths: Tokens of every class prompt, both special tokens included.
        opening: Tokens that all prompts begin with, computed once; 0 where that is switched off.
        number: Bytes of a number in activations: 4, or 2 in 16-bit precision.
        on_cpu: Whether memory means the whole process, and not the tensors on a GPU.
        image_features: Whether images come as features, computed once (an image tower that is not trained).
        read_ahead: Batches of pixel values that exist at a time in host memory.
        ranks: Processes that share a step; images and prompts are those of one of them.
        classes: All classes, whose features every rank has before and after training; None: those of ``lengths``.
        views_bytes: Of the fixed views whose rows before the first adapted block are computed once, where they are kept
            in memory; 0 where they are on disk. None: there are no fixed views.
    """

    model: ModelShape
    images: int
    lengths: tuple[int, ...]
    opening: int
    number: int = 4
    on_cpu: bool = False
    image_features: bool = False
    read_ahead: int = results_held(2)
    ranks: int = 1
    classes: int | None = None
    views_bytes: int | None = None

    @property
    def trains_text(self) -> bool:
        """Whether the text tower is trained."""
        return self.model.text.first < self.model.text.layers


@dataclass(frozen=True)
class Need:
    """What a plan needs.

    Attributes:
        flops: Of one step.
        saved: The most bytes that autograd holds at a time.
        step: All bytes that a step needs beside the frozen weights: of the process on a CPU, else of the GPU.
        host: Bytes of host memory for images that are read ahead, where ``step`` is on a GPU; else 0.
    """

    flops: float
    saved: int
    step: int
    host: int = 0


@dataclass(frozen=True)
class Priced:
    """A plan and what it needs."""

    plan: Plan
    need: Need


def price(work: Workload, plan: Plan) -> Need:
    """Count what a step needs under a plan."""
    model, size = work.model, min(plan.micro_batch or work.images, work.images)
    texts = _text_costs(work, plan.texts, plan.chunk or len(work.lengths))
    saved, text_peak = max(cost.saved for cost in texts), max(cost.peak for cost in texts)
    known = work.views_bytes is not None
    rows = image_rows(size, model.tokens)
    image = tower_cost(model.vision, rows, plan.images, work.number, prefix_known=known)
    flops, before = (image.forward + image.backward) * work.images / size, 0
    if work.image_features:  # so are the images' own; that is over before a step begins
        flops, before, image = 0.0, image.peak, Cost(0, 0, 0, 0)
    if not work.trains_text:  # its features are computed once, before the first step
        peak, saved = max(image.peak, text_peak), image.saved
    elif len(texts) == 1:  # kept while the images go through
        flops += texts[0].forward + texts[0].backward
        peak, saved = max(text_peak, saved + image.peak), saved + image.saved
    else:
        flops += sum(2 * cost.forward + cost.backward for cost in texts)
        peak, saved = max(image.peak, text_peak), max(image.saved, saved)
    peak, classes = max(peak, before), work.classes or len(work.lengths)
    if work.ranks > 1:
        peak += _random_bytes(
            work, max(size * model.tokens, *(sum(lengths) for lengths in _chunks(work, plan)))
        )
    logits = size * work.ranks * min(len(work.lengths), CLASSES_AT_ONCE)
    features = 4 * model.space * 4 * (classes + size) + 4 * 3 * logits  # unit features, logits
    pixels, host = _pixel_bytes(work, size)
    state = 4 * _STATE_COPIES * model.trained + _text_prefix_bytes(work)
    views = work.views_bytes or 0
    if not work.on_cpu:
        views, host = 0, host + views
    return Need(flops, saved, round(_slack(work, plan) * peak) + features + pixels + state + views, host)


def exchanged_bytes(work: Workload, images: int) -> int:
    """Count what a rank gets from the others in one step, or what is added up with them.

    Of every image its features and their gradient, its label, its largest logit, the sum of its exponentials and its
    own class's logit; and the gradient of the adapter. All are numbers of 4 bytes, labels are of 8.

    Args:
        work: What one of the ranks does.
        images: Of the whole batch.
    """
    if work.ranks == 1:
        return 0
    return 4 * (images * (2 * work.model.space + 5) + work.model.trained)


def _text_prefix_bytes(work: Workload) -> int:
    """Bytes of the rows that go into the first adapted block of the text tower, which are computed once."""
    text = work.model.text
    if not 0 < text.first < text.layers:
        return 0
    rows = work.opening + sum(length - work.opening for length in work.lengths)
    return work.number * text.width * rows


def frozen_image_flops(model: ModelShape) -> float:
    """Count the forward of one image through the image tower without its adapters."""
    bare = replace(model.vision, first=model.vision.layers, ranks=(0, 0, 0, 0), adapted=0)
    return tower_cost(bare, image_rows(1, model.tokens), "all", 4).forward


def _chunks(work: Workload, plan: Plan) -> list[list[int]]:
    """Return the lengths of the prompts of every pass through the text tower; passes take them by growing length."""
    lengths, chunk = sorted(length - work.opening for length in work.lengths), plan.chunk or len(work.lengths)
    return [lengths[start : start + chunk] for start in range(0, len(lengths), chunk)]


def _random_bytes(work: Workload, rows: int) -> int:
    """Bytes of random numbers for so many rows: a rank draws those of the whole pass, two of a byte at a time."""
    widths = [
        max(tower.width, tower.mlp if tower.ranks[3] else 0) for tower in (work.model.vision, work.model.text)
    ]
    return 2 * rows * work.ranks * max(widths)


def _pixel_bytes(work: Workload, size: int) -> tuple[int, int]:
    """Bytes of pixel values: where a step computes, and in host memory beside it; on a CPU these are one."""
    one = 4 * 3 * work.model.side**2
    if work.views_bytes is not None:  # rows in 16 bits
        one = 2 * work.model.tokens * work.model.vision.width
    if work.image_features:  # encoded before the first step, and not read ahead
        return one * size, 0 if work.on_cpu else one * size
    ahead = one * work.images * work.read_ahead
    return (ahead, 0) if work.on_cpu else (one * work.images, ahead)


def _slack(work: Workload, plan: Plan) -> float:
    """Return what a counted peak is multiplied by."""
    if not work.on_cpu:
        return _SLACK
    return _CPU_SLACK_BETWEEN_PASSES if plan.micro_batch else _CPU_SLACK


def choose_plans(work: Workload, room: int) -> list[Priced]:
    """Find the fastest plan that fits, and those to fall back to.

    Args:
        work: What a step has to do.
        room: Bytes for everything but the frozen weights.

    Returns:
        The plan to take, then ever smaller ones.

    Raises:
        ConfigError: Not even the smallest fits; the message says how much it needs.
    """
    priced = [Priced(plan, price(work, plan)) for plan in _candidates(work)]
    smallest = min(priced, key=lambda one: one.need.step)
    if smallest.need.step > room:
        raise ConfigError(
            f"the smallest plan needs {format_bytes(smallest.need.step)} beside the weights and what is in use "
            f"already, and {format_bytes(max(room, 0))} is left: allow more memory, take a smaller model, or 16 bits "
            "on a GPU."
        )
    chosen: list[Priced] = []
    while fitting := [one for one in priced if one.need.step <= room]:
        chosen.append(min(fitting, key=lambda one: (_seconds(work, one), one.need.step)))
        room = int(_NEXT * chosen[-1].need.step)
    return chosen


def _seconds(work: Workload, one: Priced) -> float:
    """Return what to compare plans by: FLOPs, and something for every pass."""
    size, chunk = one.plan.micro_batch or work.images, one.plan.chunk or len(work.lengths)
    passes = -(-work.images // size)
    if work.trains_text:
        passes += -(-len(work.lengths) // chunk) * (2 if one.plan.chunk else 1)
    return one.need.flops + _PASS_FLOPS * passes


def _candidates(work: Workload) -> Iterator[Plan]:
    """Every sensible plan: halves of the batch down to one image, halves of the classes down to a few."""
    sizes = [None, *_halves(work.images, 1)]
    chunks = [None, *_halves(len(work.lengths), _SMALLEST_CHUNK)]
    for images, texts, size, chunk in itertools.product(_KEEPS, _KEEPS, sizes, chunks):
        yield Plan(images, texts, size, chunk)


def _halves(count: int, least: int) -> Iterator[int]:
    while count > least:
        count = max(-(-count // 2), least)
        yield count


@lru_cache(maxsize=256)
def _text_costs(work: Workload, keep: Keep, chunk: int) -> list[Cost]:
    """Price every pass through the text tower; passes take prompts by growing length, as ``text_plans`` does."""
    lengths = sorted(length - work.opening for length in work.lengths)
    counts = [Counter(lengths[start : start + chunk]) for start in range(0, len(lengths), chunk)]
    groups = [[Group(count, length) for length, count in sorted(one.items())] for one in counts]
    return [
        tower_cost(work.model.text, text_rows(work.opening, one), keep, work.number, prefix_known=True)
        for one in groups
    ]
