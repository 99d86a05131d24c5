"""Memory that obeys: how much there is, which plan fits into it, and afterwards whether it did."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from blocklora.errors import ConfigError
from blocklora.training.device import peak_memory_bytes
from blocklora.training.planner import Priced, Workload, choose_plans
from blocklora.training.step import Plan

__all__ = ["MemoryPlan", "parse_bytes", "plan_memory"]

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
# On a CPU the process's size is what is measured: libraries wake up, and the allocator keeps some of what is freed.
_CPU_FIRST, _CPU_MORE = 180 * 10**6, 0.35


@dataclass(frozen=True)
class MemoryPlan:
    """The plan of a run.

    Attributes:
        chosen: The plan and what it needs, and those to fall back to.
        used: Bytes in use before training.
        limit: Bytes that may be used.
        predicted: The peak that is expected, in bytes.
        device: Where.
    """

    chosen: tuple[Priced, ...]
    used: int
    limit: int
    predicted: int
    device: torch.device

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan, and those to fall back to."""
        return tuple(one.plan for one in self.chosen)

    def __str__(self) -> str:
        first = self.chosen[0]
        return (
            f"memory plan: {words(first.plan)}; {first.need.flops / 1e9:,.0f} GFLOP a step; peak about "
            f"{self.predicted / 1e9:.2f} GB of {self.limit / 1e9:.2f} GB"
        )

    def outcome(self, plan: Plan) -> dict[str, Any]:
        """Compare with what came; call it right after training.

        Args:
            plan: The plan of the last step.
        """
        measured = peak_memory_bytes(self.device)
        _LOG.info(
            "memory: predicted %.2f GB, measured %.2f GB (%+.0f%%)",
            self.predicted / 1e9,
            measured / 1e9,
            100 * (measured / self.predicted - 1),
        )
        return {
            "plan": asdict(plan) | {"words": words(plan)},
            "flops_per_step": self.chosen[0].need.flops,
            "predicted_peak_bytes": self.predicted,
            "measured_peak_bytes": measured,
            "limit_bytes": self.limit,
        }


def plan_memory(work: Workload, device: torch.device, limit: str | None, *, lean: bool) -> MemoryPlan:
    """Choose the plan of a run for the memory of its device, and log it.

    Args:
        work: What a step has to do. The model is on the device already.
        device: Where training runs.
        limit: The most memory to use, such as "24GB"; None: nine tenths of what is free now.
        lean: Whether the lean engine runs.

    Raises:
        ConfigError: The limit cannot be read, or not even the smallest plan fits into it.
    """
    used, free = _memory(device)
    most = parse_bytes(limit) if limit else int(used + _SHARE * free)
    first, more = (0, 0.0) if device.type == "cuda" else (_CPU_FIRST, _CPU_MORE)
    room = int((most - used - first) / (1 + more))
    chosen = choose_plans(work, room, lean=lean)
    need = chosen[0].need.step
    predicted = used + round(need * (1 + more)) + first
    if device.type != "cuda":
        predicted = max(predicted, peak_memory_bytes(device))  # loading may have needed more
    plan = MemoryPlan(tuple(chosen), used, most, predicted, device)
    _LOG.info("%s", plan)
    return plan


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
    if not found or not unit or not float(found.group(1)):
        raise ConfigError(f"memory '{text}': expected an amount such as 24GB, 8GiB or 800MB.")
    return int(float(found.group(1)) * unit)


def _memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes in use by this process, and those free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.memory_allocated(device)), int(free + cached)
    return int(psutil.Process().memory_info().rss), int(psutil.virtual_memory().available)
