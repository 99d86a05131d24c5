"""The memory planner: how much memory there is, which plan fits into it, and afterwards whether it did.

What memory means: on a CUDA device the bytes of torch's tensors there, host memory apart; elsewhere the whole process,
with its libraries, weights, decoded images and images that are read ahead. ``fit`` and ``plan`` price alike, here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor

from blocklora.clip.towers import LeanTowers, Towers
from blocklora.core.device import give_back_freed_memory, peak_memory_bytes
from blocklora.core.errors import ConfigError
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.resources import Resources, available_resources, format_bytes
from blocklora.training.images import KEPT_BYTES, TrainingImages
from blocklora.training.memory.planner import (
    Need,
    Priced,
    Workload,
    choose_plans,
    frozen_image_flops,
)
from blocklora.training.memory.shapes import workload
from blocklora.training.step import Plan
from blocklora.training.views import FixedViews

__all__ = [
    "CPU_FIRST",
    "Forecast",
    "MemoryPlan",
    "free_memory",
    "host_room",
    "image_budget",
    "parse_bytes",
    "plan_memory",
    "plan_within",
    "used_memory",
]

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
_IMAGES = 0.25  # of what is left that decoded images may take
CPU_FIRST = 110 * 10**6
"""On a CPU the process's size is what is measured, and torch's libraries take so many bytes at their first use."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the steps of a run are cut.

    Attributes:
        plans: The plan, and those to fall back to.
        need: What it needs; None on the ordinary forward, whose memory is not predicted.
        limit: Bytes that may be used.
        predicted: The peak that is expected, in bytes; 0 where it is not predicted.
        device: Where.
        frozen_image_flops: FLOPs of one image's forward through the tower without adapters; 0 where ``need`` is None.
    """

    plans: tuple[Plan, ...]
    need: Need | None
    limit: int
    predicted: int
    device: torch.device
    frozen_image_flops: float = 0.0

    def __str__(self) -> str:
        text = f"plan: {self.plans[0]}"
        if self.need is None:
            return text
        return (
            f"{text}; {self.need.flops / 1e9:,.1f} GFLOP a step; peak memory about {format_bytes(self.predicted)} "
            f"of {format_bytes(self.limit)}"
        )

    def outcome(self, plan: Plan) -> Mapping[str, Any]:
        """Compare with what came, and log it; call it right after training.

        Args:
            plan: The plan of the last step.

        Returns:
            JSON-ready values.
        """
        measured = peak_memory_bytes(self.device)
        if self.predicted:
            _LOG.info(
                "peak memory: predicted %s, measured %s (%+.0f%%)",
                format_bytes(self.predicted),
                format_bytes(measured),
                100 * (measured / self.predicted - 1),
            )
        return {
            "plan": asdict(plan) | {"words": str(plan)},
            "flops_per_step": self.need.flops if self.need else None,
            "predicted_peak_bytes": self.predicted or None,
            "measured_peak_bytes": measured,
            "limit_bytes": self.limit,
        }


def plan_memory(
    towers: Towers,
    tokens: Tensor,
    images: TrainingImages | FixedViews,
    device: torch.device,
    limit: str | None,
    resources: Resources | None = None,
    ranks: Ranks = ALONE,
) -> MemoryPlan:
    """Choose how the steps of a run are cut for the memory of its device, and log it.

    Several ranks choose the same plan, by the one that has the least room.

    Args:
        towers: The model, on the device already.
        tokens: Token ids of the class prompts (N, L).
        images: The batches.
        device: Where training runs.
        limit: The most memory to use, such as "24GB"; None: nine tenths of what is free now.
        resources: Cores and host memory of this process; None is all that it may use.
        ranks: The processes that share a step; the limit is that of each.

    Raises:
        ConfigError: The limit cannot be read, not even the smallest plan fits into it, or the ordinary forward runs,
            whose memory cannot be limited.
    """
    resources = resources or available_resources(1 / ranks.local_count)
    used = used_memory(device)
    most = parse_bytes(limit) if limit else free_memory(device, resources)
    room = 0 if isinstance(images, FixedViews) else image_budget(host_room(device, limit, resources))
    opened = images.images if isinstance(images, FixedViews) else images
    opened.budget = min(opened.budget, room)  # fixed views are cut once
    if isinstance(towers, LeanTowers):
        work = workload(towers, tokens, images, device, resources.cores, ranks.count)
        rooms = ranks.collect([most - used, used, opened.expected_bytes()])
        _, used, kept = rooms[0]
        most = used + min(room for room, _, _ in rooms)
        plan = _chosen(plan_within(work, most, used, kept), device, most, limited=bool(limit))
        plan = replace(plan, frozen_image_flops=frozen_image_flops(work.model))
    elif ranks.count > 1:
        raise ConfigError(
            f"{ranks.count} processes were started, and only the lean engine shares a step; this model runs on the "
            f"ordinary forward{f': {towers.why}' if towers.why else ''}; start it without torchrun."
        )
    elif limit:
        raise ConfigError(
            f"memory_limit '{limit}': only the lean engine keeps to a limit, and this model runs on the ordinary "
            f"forward{f': {towers.why}' if towers.why else ''}; leave --memory-limit out."
        )
    else:
        plan = MemoryPlan(_halved(images.batch_size, len(tokens)), None, most, 0, device)
    _LOG.info("engine: %s%s; %s", towers.engine, f" ({towers.why})" if towers.why else "", plan)
    return plan


@dataclass(frozen=True)
class Forecast:
    """The plans that fit into a limit, and what is in use before the first step.

    Attributes:
        plans: The plan to take, then ever smaller ones.
        before: Bytes in use whatever the plan.
    """

    plans: tuple[Priced, ...]
    before: int

    def peak(self, place: int = 0) -> int:
        """Return the peak that is expected under one of the plans, in bytes."""
        return self.before + self.plans[place].need.step


def plan_within(work: Workload, limit: int, used: int, images: int) -> Forecast:
    """Choose the fastest plan that fits into a limit.

    Args:
        work: What a step has to do.
        limit: The most memory, in bytes.
        used: What is in use when the model is loaded, in bytes: the process, or the tensors on a GPU.
        images: Bytes of decoded training images, which are kept in host memory.

    Raises:
        ConfigError: Not even the smallest plan fits.
    """
    before = used + (CPU_FIRST + images if work.on_cpu else 0)
    return Forecast(tuple(choose_plans(work, limit - before)), before)


def host_room(device: torch.device, limit: str | None, resources: Resources | None) -> int:
    """Return how many bytes of host memory are left for images and a step.

    Args:
        device: Where training runs.
        limit: The most memory to use; None: nine tenths of what is free now.
        resources: Cores and host memory of this process; None is all that it may use.
    """
    resources = resources or available_resources()
    if device.type == "cuda":
        return resources.memory_bytes
    return (parse_bytes(limit) if limit else free_memory(device, resources)) - used_memory(device)


def image_budget(room: int) -> int:
    """Return how many bytes of decoded training images may be kept in so much free host memory."""
    return max(0, min(KEPT_BYTES, int(_IMAGES * room)))


def _chosen(forecast: Forecast, device: torch.device, most: int, *, limited: bool) -> MemoryPlan:
    """Take a forecast's plans; on a CPU, see that the process keeps to them."""
    need, predicted = forecast.plans[0].need, forecast.peak()
    if device.type == "cpu" and (limited or need.step > (most - forecast.before) // 2):
        give_back_freed_memory()
    if device.type != "cuda":
        predicted = max(predicted, peak_memory_bytes(device))  # loading may have needed more
    return MemoryPlan(tuple(one.plan for one in forecast.plans), need, most, predicted, device)


def _halved(images: int, classes: int) -> tuple[Plan, ...]:
    """The whole batch at once, then halves of it and of the classes."""
    plans = [Plan()]
    while images > 1 or classes > 1:
        images, classes = -(-images // 2), -(-classes // 2)
        plans.append(Plan(micro_batch=images, chunk=classes))
    return tuple(plans)


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


def free_memory(device: torch.device, resources: Resources) -> int:
    """Return how many bytes are planned with where nobody sets a limit, those already in use included."""
    free = resources.memory_bytes
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        free -= torch.cuda.memory_allocated(device)
    return int(used_memory(device) + _SHARE * free)


def used_memory(device: torch.device) -> int:
    """Return the bytes in use now: of torch's tensors on a CUDA device, elsewhere of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
