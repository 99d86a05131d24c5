"""Do the runs of a grid that are still missing: in processes sized to the machine, each kept as soon as it ends."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from blocklora.bench.grid import Grid, Run, load_grid
from blocklora.bench.progress import BenchProgress
from blocklora.bench.store import Store, open_store
from blocklora.bench.work import RunOrder, WorkSettings, do_run, machine
from blocklora.bench.workers import Outcome, run_jobs, workers_for
from blocklora.clip import load_clip
from blocklora.core.device import resolve_device
from blocklora.core.errors import ConfigError
from blocklora.data import load_dataset

__all__ = ["run_grid"]

_RUNNING, _FEATURES, _LOG = "running", "features", "workers.log"


def run_grid(
    grid: str | Path,
    out: Path,
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: BenchProgress | None = None,
) -> dict[str, int]:
    """Do the runs of a grid whose keys have no line in the results yet.

    A run that fails is tried twice, then recorded with its error. After Ctrl-C, a crash or a kill, the same call goes
    on; a run that had a checkpoint goes on from there.

    Args:
        grid: A TOML file, see ``load_grid``.
        out: The RESULTS folder, which is made if need be.
        workers: How many processes; None suits the machine.
        retry_failed: Do the runs again that failed before.
        progress: Who is told how far it has come.

    Returns:
        How many runs are ``planned``, were ``done`` now, ``failed`` now, and had ``failed_before``.

    Raises:
        ConfigError: The grid has a key or value that cannot work; it is named.
        DataError: A data set of a missing run cannot be loaded.
        ModelError: A model of a missing run cannot be loaded.
        RunError: ``out`` is something else, damaged, or in use.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers '{workers}': expected a whole number of at least 1.")
    plan = load_grid(grid)
    with open_store(out) as store:
        store.write_plan(plan.plan())
        failed = {key for key, record in store.records.items() if record["status"] == "failed"}
        known = set(store.records) - (failed if retry_failed else set())
        missing = [run for run in plan.runs if run.key not in known]
        counts = {"planned": len(plan.runs), "done": 0, "failed": 0}
        counts["failed_before"] = sum(run.key in failed & known for run in plan.runs)
        if missing:
            _do(plan, missing, store, workers, progress, counts)
        elif progress:
            progress.begin([], _finished(plan, store), 1)
        shutil.rmtree(out / _RUNNING, ignore_errors=True)
    return counts


def _do(
    plan: Grid,
    missing: Sequence[Run],
    store: Store,
    workers: int | None,
    progress: BenchProgress | None,
    counts: dict[str, int],
) -> None:
    """Do the missing runs, and write a line for each."""
    settings, n_workers = _sized(plan, missing, store.folder, workers)
    running = store.folder / _RUNNING
    running.mkdir(exist_ok=True)
    for key in store.records:  # recorded, and killed before its folder was removed
        shutil.rmtree(running / key, ignore_errors=True)
    orders = [RunOrder(run.key, run.arguments, running / run.key) for run in missing]
    by_key = {run.key: run for run in missing}
    where = {"machine": machine(n_workers, settings), "code": _code()}
    if progress:
        progress.begin(missing, _finished(plan, store), n_workers)

    def on_step(n: int, order: RunOrder, phase: str, done: int, total: int) -> None:
        if progress:
            progress.step(n, by_key[order.key], phase, done, total)

    outcomes = run_jobs(orders, do_run, settings, n_workers, running / _LOG, on_step=on_step)
    with closing(outcomes):
        for outcome in outcomes:
            run = by_key[outcome.job.content.key]
            store.append(_record(run, outcome) | where)
            shutil.rmtree(outcome.job.content.folder, ignore_errors=True)
            counts["done" if outcome.error is None else "failed"] += 1
            if progress:
                progress.end(run, outcome.seconds, outcome.error)


def _record(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Return the line of a run."""
    record = {"key": run.key, **run.place(), "attempts": outcome.job.attempt}
    if outcome.error is None:
        return record | {"status": "ok", **outcome.answer, "settings": run.resolved}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    failure = {"status": "failed", "error": outcome.error, "trace": outcome.trace, "seconds": outcome.seconds}
    return record | failure | {"created": when, "settings": run.resolved}


def _finished(plan: Grid, store: Store) -> list[tuple[Run, float]]:
    """Return the runs of the grid that are done, with the seconds that each took."""
    return [(run, store.records[run.key]["seconds"]) for run in plan.runs if run.key in store.records]


def _sized(plan: Grid, missing: Sequence[Run], out: Path, workers: int | None) -> tuple[WorkSettings, int]:
    """Open every data set and model once, and choose how many processes and threads there are."""
    for data, root in sorted(
        {(run.arguments["data"], run.arguments.get("root")) for run in missing}, key=str
    ):
        load_dataset(data, **({} if root is None else {"root": root}))
    weights = 0
    for model in sorted({run.model for run in missing}):
        weights = max(weights, 4 * sum(p.numel() for p in load_clip(model).model.parameters()))
    devices = {resolve_device(run.arguments.get("device", "auto")) for run in missing}
    if len({device.type for device in devices}) > 1:
        raise ConfigError(f"{plan.path}: device: expected one kind of device for all methods of a grid.")
    gpus = _gpus(devices)
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    one = {device.type for device in devices} == {"mps"}
    suitable = 1 if one else workers_for(cores, psutil.virtual_memory().available, len(gpus), weights)
    n_workers = min(workers or suitable, len(missing))
    threads = max(1, cores // n_workers)
    return WorkSettings(threads, gpus, out.resolve() / _FEATURES, plan.methods_from), n_workers


def _gpus(devices: set[torch.device]) -> tuple[str, ...]:
    """Return the ids of the GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them: all, or those asked for."""
    if {device.type for device in devices} != {"cuda"}:
        return ()
    asked = [device.index for device in devices]
    places = range(torch.cuda.device_count()) if None in asked else sorted(asked)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else None
    return tuple(ids[place] if ids else str(place) for place in places)


@functools.cache
def _code() -> dict[str, Any]:
    """Return which code this is: the version, and in a checkout its commit and whether files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    tracked = commit and git("ls-files", "--error-unmatch", "run.py")
    changes = git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {"version": version("blocklora")} | (
        {"commit": commit, "changed": bool(changes)} if tracked else {}
    )
