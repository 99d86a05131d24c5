"""What the usual ways to train CLIP with LoRA compute and keep in one step, to compare a plan with.

CLIP-LoRA: the released code (MaxZanella/CLIP-LoRA) pads every prompt to the context's 77 tokens and adds a d x d
product to every weight. PEFT: transformers' CLIPModel with PEFT's LoRA, prompts padded to the longest. Both recompute
nothing. The factors below were counted in fp32 with dropout on a CPU, q, k and v adapted; a test counts PEFT's again.
"""

from __future__ import annotations

from blocklora.training.memory.costs import Cost, Rows, TowerShape, image_rows
from blocklora.training.memory.planner import Need, Workload

__all__ = ["clip_lora_need", "peft_need"]

_PEFT_WIDTHS, _PEFT_MLPS = 12, 2  # numbers kept of a row in a block: 12 d + 2 m
_CLIP_LORA_WIDTHS = 18.86  # the same in d alone, m = 4 d
_CLIP_LORA_FLOPS = 2.72  # of a bare forward
_ATTENTION_BACKWARD = 2.5


def peft_need(work: Workload) -> Need:
    """Return what transformers with PEFT's LoRA needs for the same step, prompts padded to the longest."""
    count, longest = len(work.lengths), max(work.lengths)
    rows = _padded(count, longest), image_rows(work.images, work.model.tokens)
    return _sum([_peft(shape, part, work.number) for shape, part in zip(_towers(work), rows, strict=True)])


def clip_lora_need(work: Workload, context: int) -> Need:
    """Return what CLIP-LoRA's released code needs for the same step.

    Args:
        work: The step.
        context: Tokens that every prompt is padded to.
    """
    rows = _padded(len(work.lengths), context), image_rows(work.images, work.model.tokens)
    return _sum(
        [_clip_lora(shape, part, work.number) for shape, part in zip(_towers(work), rows, strict=True)]
    )


def _towers(work: Workload) -> tuple[TowerShape, TowerShape]:
    return work.model.text, work.model.vision


def _padded(prompts: int, length: int) -> Rows:
    return image_rows(prompts, length)


def _linear_and_attention(shape: TowerShape, rows: Rows) -> tuple[float, float]:
    """FLOPs of a tower's bare forward: its linear layers, and its attention."""
    d, m = shape.width, shape.mlp
    return shape.layers * 2.0 * rows.total * (4 * d * d + 2 * d * m), shape.layers * 4.0 * d * rows.pairs


def _peft(shape: TowerShape, rows: Rows, number: int) -> Cost:
    linear, attention = _linear_and_attention(shape, rows)
    kept = number * shape.layers * rows.total * (_PEFT_WIDTHS * shape.width + _PEFT_MLPS * shape.mlp)
    return Cost(linear + attention, linear + _ATTENTION_BACKWARD * attention, kept, kept)


def _clip_lora(shape: TowerShape, rows: Rows, number: int) -> Cost:
    forward = sum(_linear_and_attention(shape, rows))
    deltas = 3 * shape.width**2  # of q, k and v, in every block
    kept = round(number * shape.layers * (_CLIP_LORA_WIDTHS * rows.total * shape.width + deltas))
    return Cost(forward, (_CLIP_LORA_FLOPS - 1) * forward, kept, kept)


def _sum(costs: list[Cost]) -> Need:
    saved = sum(cost.saved for cost in costs)
    return Need(sum(cost.forward + cost.backward for cost in costs), saved, saved)
