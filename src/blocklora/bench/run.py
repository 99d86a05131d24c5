"""Do the runs of a grid that are still missing, here or on a Ray cluster; each is kept as soon as it ends."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blocklora.bench.executors.executor import Executor, Outcome
from blocklora.bench.executors.local import local_processes
from blocklora.bench.executors.on_ray import ray_cluster
from blocklora.bench.grid import Grid, GridRun, load_grid
from blocklora.bench.progress import BenchProgress
from blocklora.bench.records import Machine, RunFailure, RunRecord
from blocklora.bench.store import ResultsFolder, open_results
from blocklora.bench.work import RunOrder
from blocklora.clip import load_clip
from blocklora.core.errors import ConfigError
from blocklora.core.shards import Shard
from blocklora.data import DataChoice, choose_test

__all__ = ["run_grid"]

_FEATURES = "features"
_DATA = ("data", "root", "class_names")  # the arguments that say which test images there are
_LOG_BYTES = 8 * 1024**2


def run_grid(
    grid: str | Path,
    out: Path,
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    shard: Shard | None = None,
    ray: str | None = None,
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
        shard: Which part of the runs to do; several may work in one RESULTS folder at a time.
        ray: The address of a Ray cluster to do them on, or ``auto``; None does them on this machine.
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
    if workers is not None and ray is not None:
        raise ConfigError(
            "workers and ray: expected one of them; a cluster does as many runs at once as fit."
        )
    plan = load_grid(grid)
    runs = [run for run in plan.distinct_runs if shard is None or shard.has(run.key)]
    with open_results(out, shard) as results:
        results.write_plan(plan.plan)
        failed = {key for key, record in results.records.items() if record.status == "failed"}
        known = results.records.keys() - (failed if retry_failed else set())
        missing = [run for run in runs if run.key not in known]
        finished = [(run, results.records[run.key].outcome.seconds) for run in runs if run.key in known]
        counts = {"planned": len(missing) + len(finished), "done": 0, "failed": 0}
        counts["failed_before"] = sum(run.key in failed for run, _ in finished)
        with _executor(plan, missing, results, workers, ray) if missing else nullcontext() as executor:
            if progress:
                progress.begin(missing, finished, executor.n_workers if executor else 1, plan.notes)
            if executor:
                _do(missing, results, executor, progress, counts)
        shutil.rmtree(results.running, ignore_errors=True)
        _forget_or_name_log(results.log, counts, progress)
    return counts


def _do(
    missing: Sequence[GridRun],
    results: ResultsFolder,
    executor: Executor,
    progress: BenchProgress | None,
    counts: dict[str, int],
) -> None:
    """Do the missing runs, and write a line for each."""
    running, log = results.running, results.log
    running.mkdir(exist_ok=True)
    for key in results.records:  # recorded, and killed before its folder was removed
        shutil.rmtree(running / key, ignore_errors=True)
    orders = [RunOrder(run.key, run.arguments, running / run.key, run.files) for run in missing]
    by_key = {run.key: run for run in missing}

    def on_step(n: int, order: RunOrder, phase: str, done: int, total: int) -> None:
        if progress:
            progress.step(n, by_key[order.key], phase, done, total)

    _limit_log(log)
    with closing(executor.outcomes(orders, on_step)) as outcomes:
        for outcome in outcomes:
            run = by_key[outcome.item.content.key]
            results.append(_record(run, outcome, outcome.machine or executor.machine))
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


@contextmanager
def _executor(
    plan: Grid, missing: Sequence[GridRun], results: ResultsFolder, workers: int | None, ray: str | None
) -> Iterator[Executor]:
    """Open every data set and model once, and choose where the runs are done."""
    classes = _open_data(missing)
    weights = 0
    for model in sorted({run.model for run in missing}):
        weights = max(weights, 4 * sum(p.numel() for p in load_clip(model).model.parameters()))
    features = results.folder.resolve() / _FEATURES
    if ray is not None:
        with ray_cluster(ray, plan, missing, weights, max(classes), features) as cluster:
            yield cluster
    else:
        yield local_processes(plan, missing, workers, weights, features, results.log)


def _open_data(missing: Sequence[GridRun]) -> list[int]:
    """Load every data set once, so that what is wrong with one is found before the first run; count their classes."""
    opened: dict[DataChoice, int] = {}
    for run in missing:
        named = {name: run.arguments[name] for name in _DATA if name in run.arguments}
        choice = DataChoice(**named)
        if choice not in opened:
            opened[choice] = len(choose_test(choice, 0).class_names)
    return list(opened.values())


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
