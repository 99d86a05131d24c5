"""Runs in processes of this machine, sized to its cores, memory and GPUs."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from blocklora.bench.executors.executor import OnStep, Outcome
from blocklora.bench.executors.processes import run_in_processes, workers_for
from blocklora.bench.grid import Grid, GridRun
from blocklora.bench.records import Machine
from blocklora.bench.work import RunOrder, WorkSettings, describe_machine, do_run
from blocklora.core.device import resolve_device
from blocklora.core.errors import ConfigError
from blocklora.core.resources import Resources, available_resources

__all__ = ["LocalProcesses", "local_processes"]


@dataclass(frozen=True)
class LocalProcesses:
    """An ``Executor`` of this machine.

    Attributes:
        n_workers: How many processes.
        settings: What each may use.
        machine: As the results describe it.
        log: Where what the processes print goes.
    """

    n_workers: int
    settings: WorkSettings
    machine: Machine
    log: Path

    def outcomes(self, orders: Sequence[RunOrder], on_step: OnStep) -> Generator[Outcome, None, None]:
        """See ``Executor``."""
        return run_in_processes(orders, do_run, self.settings, self.n_workers, self.log, on_step=on_step)


def local_processes(
    plan: Grid,
    missing: Sequence[GridRun],
    workers: int | None,
    weight_bytes: int,
    features: Path,
    log: Path,
) -> LocalProcesses:
    """Choose how many processes there are, and what each may use.

    Args:
        plan: The grid.
        missing: The runs to do, at least one.
        workers: How many processes; None suits the machine.
        weight_bytes: The largest model's weights.
        features: The folder of shared features.
        log: Where what the processes print goes.

    Raises:
        ConfigError: The runs ask for several kinds of device, or for one that is not there.
    """
    devices = {resolve_device(run.arguments.get("device", "auto")) for run in missing}
    if len({device.type for device in devices}) > 1:
        raise ConfigError(f"{plan.path}: device: expected one kind of device for all methods of a grid.")
    gpus = _gpus(devices)
    free = available_resources()
    cores = min(
        free.cores, psutil.cpu_count(logical=False) or free.cores
    )  # two runs on one core gain nothing
    one = {device.type for device in devices} == {"mps"}
    suitable = 1 if one else workers_for(cores, free.memory_bytes, len(gpus), weight_bytes)
    n_workers = min(workers or suitable, len(missing))
    share = Resources(max(1, cores // n_workers), free.memory_bytes // n_workers)
    settings = WorkSettings(share, _ids(gpus), features, plan.methods_from)
    names = tuple(torch.cuda.get_device_name(place) for place in gpus)
    return LocalProcesses(n_workers, settings, describe_machine(cores, names, n_workers, share.cores), log)


def _gpus(devices: set[torch.device]) -> list[int]:
    """Return the numbers that torch gives to the GPUs that runs may use: all, or those asked for."""
    if {device.type for device in devices} != {"cuda"}:
        return []
    asked = [device.index for device in devices]
    return list(range(torch.cuda.device_count())) if None in asked else sorted(asked)


def _ids(gpus: Sequence[int]) -> tuple[str, ...]:
    """Return the ids of GPUs as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else None
    return tuple(ids[place] if ids else str(place) for place in gpus)
