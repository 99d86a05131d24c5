"""Do the runs of a grid that are still missing: in processes sized to the machine, each kept as soon as it ends."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from blocklora.bench.grid import Grid, GridRun, load_grid
from blocklora.bench.progress import BenchProgress
from blocklora.bench.records import Machine, RunFailure, RunRecord
from blocklora.bench.store import ResultsFolder, open_results
from blocklora.bench.work import RunOrder, WorkSettings, describe_machine, do_run
from blocklora.bench.workers import Outcome, run_in_processes, workers_for
from blocklora.clip import load_clip
from blocklora.core.device import resolve_device
from blocklora.core.errors import ConfigError
from blocklora.core.resources import Resources, available_resources
from blocklora.data import DataChoice, choose_test

__all__ = ["run_grid"]

_RUNNING, _FEATURES, _LOG = "running", "features", "workers.log"
_DATA = ("data", "root", "class_names")  # the arguments that say which test images there are
_LOG_BYTES = 8 * 1024**2


@dataclass(frozen=True)
class _Crew:
    """The processes that do the runs: how many, what each may use, and the machine as the results describe it."""

    n_workers: int
    settings: WorkSettings
    machine: Machine


def run_grid(
    grid: str | Path,
    out: Path,
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: BenchProgress | None = None,
) -> dict[str, int]:
    """Do the runs of a grid whose keys have no line in the results yet.

    A run that fails is tried twice, then recorded with its error; what the processes printed is then kept in
    ``workers.log``. After Ctrl-C, a crash or a kill, the same call goes on; a run that had a checkpoint goes on from
    there. A run that the grid has under several names is done once.

    Args:
        grid: A TOML file, see ``load_grid``.
        out: The RESULTS folder, which is made if need be.
        workers: How many processes; None suits the machine.
        retry_failed: Do the runs again that failed before.
        progress: Progress callback.

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
    with open_results(out) as results:
        results.write_plan(plan.plan)
        failed = {key for key, record in results.records.items() if record.status == "failed"}
        known = results.records.keys() - (failed if retry_failed else set())
        missing = [run for run in plan.distinct_runs if run.key not in known]
        finished = [
            (run, results.records[run.key].outcome.seconds) for run in plan.distinct_runs if run.key in known
        ]
        counts = {"planned": len(missing) + len(finished), "done": 0, "failed": 0}
        counts["failed_before"] = sum(run.key in failed for run, _ in finished)
        crew = _crew(plan, missing, out, workers) if missing else None
        if progress:
            progress.begin(missing, finished, crew.n_workers if crew else 1, plan.notes)
        if crew:
            _do(missing, results, crew, progress, counts)
        shutil.rmtree(out / _RUNNING, ignore_errors=True)
        _forget_or_name_log(out / _LOG, counts, progress)
    return counts


def _do(
    missing: Sequence[GridRun],
    results: ResultsFolder,
    crew: _Crew,
    progress: BenchProgress | None,
    counts: dict[str, int],
) -> None:
    """Do the missing runs, and write a line for each."""
    running, log = results.folder / _RUNNING, results.folder / _LOG
    running.mkdir(exist_ok=True)
    for key in results.records:  # recorded, and killed before its folder was removed
        shutil.rmtree(running / key, ignore_errors=True)
    orders = [RunOrder(run.key, run.arguments, running / run.key, run.files) for run in missing]
    by_key = {run.key: run for run in missing}

    def on_step(n: int, order: RunOrder, phase: str, done: int, total: int) -> None:
        if progress:
            progress.step(n, by_key[order.key], phase, done, total)

    _limit_log(log)
    outcomes = run_in_processes(orders, do_run, crew.settings, crew.n_workers, log, on_step=on_step)
    with closing(outcomes):
        for outcome in outcomes:
            run = by_key[outcome.item.content.key]
            results.append(_record(run, outcome, crew.machine))
            shutil.rmtree(outcome.item.content.folder, ignore_errors=True)
            counts["done" if outcome.error is None else "failed"] += 1
            if progress:
                progress.end(run, outcome.seconds, outcome.error)
            _limit_log(log)


def _record(run: GridRun, outcome: Outcome, machine: Machine) -> RunRecord:
    """Return the line of a run."""
    result = outcome.answer
    if outcome.error is not None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        result = RunFailure(outcome.error, outcome.trace, now, outcome.seconds)
    return RunRecord(run.entry, outcome.item.attempt, result, run.resolved, machine, _code())


def _limit_log(log: Path) -> None:
    """Move what a long log holds to a second file, which is replaced; the processes go on writing to the first."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def _forget_or_name_log(log: Path, counts: dict[str, int], progress: BenchProgress | None) -> None:
    """Keep what the processes printed, and say where it is, as long as a run of the grid has failed."""
    if not counts["failed"] + counts["failed_before"]:
        log.unlink(missing_ok=True)
        log.with_name(f"{log.name}.1").unlink(missing_ok=True)
    elif progress and log.exists():
        progress.say(f"what the processes printed: {log}")


def _crew(plan: Grid, missing: Sequence[GridRun], out: Path, workers: int | None) -> _Crew:
    """Open every data set and model once, and choose how many processes there are and what each may use."""
    _open_data(missing)
    weights = 0
    for model in sorted({run.model for run in missing}):
        weights = max(weights, 4 * sum(p.numel() for p in load_clip(model).model.parameters()))
    devices = {resolve_device(run.arguments.get("device", "auto")) for run in missing}
    if len({device.type for device in devices}) > 1:
        raise ConfigError(f"{plan.path}: device: expected one kind of device for all methods of a grid.")
    gpus = _gpus(devices)
    free = available_resources()
    cores = min(
        free.cores, psutil.cpu_count(logical=False) or free.cores
    )  # two runs on one core gain nothing
    one = {device.type for device in devices} == {"mps"}
    suitable = 1 if one else workers_for(cores, free.memory_bytes, len(gpus), weights)
    n_workers = min(workers or suitable, len(missing))
    share = Resources(max(1, cores // n_workers), free.memory_bytes // n_workers)
    settings = WorkSettings(share, _ids(gpus), out.resolve() / _FEATURES, plan.methods_from)
    names = tuple(torch.cuda.get_device_name(place) for place in gpus)
    return _Crew(n_workers, settings, describe_machine(cores, names, n_workers, share.cores))


def _open_data(missing: Sequence[GridRun]) -> None:
    """Load every data set once, so that what is wrong with one is found before the first run."""
    opened = set()
    for run in missing:
        named = {name: run.arguments[name] for name in _DATA if name in run.arguments}
        choice = DataChoice(**named)
        if choice not in opened:
            choose_test(choice, 0)
            opened.add(choice)


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


@functools.cache
def _code() -> Mapping[str, Any]:
    """Return which code this is: the version, and in a checkout its commit and whether files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(here), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    tracked = commit and git("ls-files", "--error-unmatch", "run.py")
    changes = git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {"version": version("blocklora")} | (
        {"commit": commit, "changed": bool(changes)} if tracked else {}
    )
