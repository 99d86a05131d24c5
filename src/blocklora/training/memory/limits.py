"""Memory that obeys: how much there is, which plan fits into it, and afterwards whether it did."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from blocklora.clip.towers import LeanTowers, Towers
from blocklora.core.device import give_back_freed_memory, peak_memory_bytes
from blocklora.core.errors import ConfigError
from blocklora.training.images import TrainingImages
from blocklora.training.memory.planner import Need, Workload, choose_plans
from blocklora.training.memory.shapes import workload
from blocklora.training.step import Plan

__all__ = ["CPU_FIRST", "MemoryPlan", "free_memory", "parse_bytes", "plan_memory", "words"]

_LOG = logging.getLogger(__name__)
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SHARE = 0.9  # of what is free that is planned with, where nobody sets a limit
_PICTURES = 0.25  # of what is left that decoded pictures may take
CPU_FIRST = 110 * 10**6
"""On a CPU the process's size is what is measured, and it grows by so many bytes when torch's libraries wake up."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the steps of a run are cut.

    Attributes:
        plans: The plan, and those to fall back to.
        need: What it needs; None on the ordinary forward, whose memory is not predicted.
        limit: Bytes that may be used.
        predicted: The peak that is expected, in bytes; 0 where it is not predicted.
        device: Where.
    """

    plans: tuple[Plan, ...]
    need: Need | None
    limit: int
    predicted: int
    device: torch.device

    def __str__(self) -> str:
        text = f"plan: {words(self.plans[0])}"
        if self.need is None:
            return text
        return (
            f"{text}; {self.need.flops / 1e9:,.0f} GFLOP a step; peak memory about {self.predicted / 1e9:.2f} GB "
            f"of {self.limit / 1e9:.2f} GB"
        )

    def outcome(self, plan: Plan) -> dict[str, Any]:
        """Compare with what came, and log it; call it right after training.

        Args:
            plan: The plan of the last step.

        Returns:
            JSON-ready values.
        """
        measured = peak_memory_bytes(self.device)
        if self.predicted:
            _LOG.info(
                "peak memory: predicted %.2f GB, measured %.2f GB (%+.0f%%)",
                self.predicted / 1e9,
                measured / 1e9,
                100 * (measured / self.predicted - 1),
            )
        return {
            "plan": asdict(plan) | {"words": words(plan)},
            "flops_per_step": self.need.flops if self.need else None,
            "predicted_peak_bytes": self.predicted or None,
            "measured_peak_bytes": measured,
            "limit_bytes": self.limit,
        }


def plan_memory(
    towers: Towers, tokens: Tensor, pictures: TrainingImages, device: torch.device, limit: str | None
) -> MemoryPlan:
    """Choose how the steps of a run are cut for the memory of its device, and log it.

    Args:
        towers: The model, on the device already.
        tokens: Token ids of the class prompts (N, L).
        pictures: The batches.
        device: Where training runs.
        limit: The most memory to use, such as "24GB"; None: nine tenths of what is free now.

    Raises:
        ConfigError: The limit cannot be read, not even the smallest plan fits into it, or the ordinary forward runs,
            whose memory cannot be limited.
    """
    used, _ = _memory(device)
    most = parse_bytes(limit) if limit else free_memory(device)
    on_gpu = device.type == "cuda"
    host = psutil.virtual_memory().available if on_gpu else most - used
    pictures.budget = max(0, min(pictures.budget, int(_PICTURES * host)))
    used += 0 if on_gpu else pictures.expected_bytes()
    if isinstance(towers, LeanTowers):
        plan = _planned(workload(towers, tokens, pictures, device), device, used, most, limited=bool(limit))
    elif limit:
        raise ConfigError(
            f"memory_limit '{limit}': only the lean engine keeps to a limit, and this model runs on the ordinary "
            f"forward{f': {towers.why}' if towers.why else ''}; leave --memory-limit out."
        )
    else:
        plan = MemoryPlan(_halved(pictures.batch_size, len(tokens)), None, most, 0, device)
    _LOG.info("engine: %s%s; %s", towers.engine, f" ({towers.why})" if towers.why else "", plan)
    return plan


def _planned(work: Workload, device: torch.device, used: int, most: int, *, limited: bool) -> MemoryPlan:
    """Choose the fastest plan that fits, and predict its peak; on a CPU, see that the process keeps to it."""
    first = 0 if device.type == "cuda" else CPU_FIRST
    chosen = choose_plans(work, most - used - first)
    need = chosen[0].need
    predicted = used + first + need.step
    if device.type == "cpu" and (limited or need.step > (most - used - first) // 2):
        give_back_freed_memory()
    if device.type != "cuda":
        predicted = max(predicted, peak_memory_bytes(device))  # loading may have needed more
    return MemoryPlan(tuple(one.plan for one in chosen), need, most, predicted, device)


def _halved(pictures: int, classes: int) -> tuple[Plan, ...]:
    """The whole batch at once, then halves of it and of the classes."""
    plans = [Plan()]
    while pictures > 1 or classes > 1:
        pictures, classes = -(-pictures // 2), -(-classes // 2)
        plans.append(Plan(micro_batch=pictures, chunk=classes))
    return tuple(plans)


def words(plan: Plan) -> str:
    """Say what a plan does."""
    keeps = {"all": "keeps everything", "no-mlp": "computes MLPs again", "inputs": "computes blocks again"}
    same = plan.images == plan.texts
    parts = (
        [f"each block {keeps[plan.images]}"]
        if same
        else [f"images: each block {keeps[plan.images]}", f"texts: each block {keeps[plan.texts]}"]
    )
    if plan.micro_batch:
        parts.append(f"pictures in micro-batches of {plan.micro_batch}")
    if plan.chunk:
        parts.append(f"classes in two passes, {plan.chunk} at a time")
    return ", ".join(parts)


def parse_bytes(text: str) -> int:
    """Read an amount of memory: "24GB" (10**9), "24GiB" (2**30), "800 MB", "24g", or plain bytes.

    Raises:
        ConfigError: It is not one.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text, flags=re.IGNORECASE)
    unit = found and _UNITS.get(found.group(2).lower())
    amount = int(float(found.group(1)) * unit) if found and unit else 0
    if not amount:
        raise ConfigError(f"memory '{text}': expected an amount such as 24GB, 8GiB or 800MB.")
    return amount


def free_memory(device: torch.device) -> int:
    """Return how many bytes are planned with where nobody sets a limit, those already in use included."""
    used, free = _memory(device)
    return int(used + _SHARE * free)


def _memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes in use by this process, and those free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.memory_allocated(device)), int(free + cached)
    return int(psutil.Process().memory_info().rss), int(psutil.virtual_memory().available)
