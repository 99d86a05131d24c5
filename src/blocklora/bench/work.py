"""What a worker process does: one run of a grid, through the same ``fit_run`` that ``blocklora fit`` calls."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from threadpoolctl import threadpool_limits

from blocklora.bench.records import Machine, RunResult
from blocklora.bench.user_methods import load_methods
from blocklora.classifier import FeatureStore
from blocklora.core.errors import ConfigError
from blocklora.core.resources import Resources
from blocklora.report import metrics_json
from blocklora.run.fit import fit_run
from blocklora.run.folder import CONFIG, SPLIT, read_json

__all__ = ["RunOrder", "WorkSettings", "describe_machine", "do_run"]

_DETAILS = (
    "accuracy_interval", "mean_class_accuracy", "ece", "nll", "zero_shot_accuracy", "n_correct", "n_classes",
    "n_train", "n_val", "temperature", "total_parameters", "prompt", "precision", "choices", "selection", "selected_by",
    "notes", "versions",
)  # fmt: skip
_SAMPLE_SECONDS = 0.05

Tell = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class WorkSettings:
    """What all runs of a worker share.

    Attributes:
        resources: The worker's share of the cores and of the free memory.
        gpus: The ids of the GPUs; none for a CPU.
        features: The folder of the frozen features that runs share.
        methods_from: The file of the user's own methods.
    """

    resources: Resources
    gpus: tuple[str, ...]
    features: Path
    methods_from: Path | None


@dataclass(frozen=True)
class RunOrder:
    """One run to do.

    Attributes:
        key: The run's key.
        arguments: What ``fit_run`` is called with.
        folder: The RUN folder.
        files: Files that the run reads, and the hash that each must have.
    """

    key: str
    arguments: Mapping[str, Any]
    folder: Path
    files: Mapping[Path, str]


class _ToldProgress:
    """Passes a run's progress on."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        self._tell("training", step, total)

    def part(self, name: str) -> None:
        """A part of the run begins; its steps are told."""

    def encoded(self, done: int, total: int) -> None:
        """Test images have been encoded."""
        self._tell("testing", done, total)


def do_run(settings: WorkSettings, n: int, order: RunOrder, attempt: int, tell: Tell) -> RunResult:
    """Do one run.

    The first attempt goes on with an unfinished RUN folder; a later one starts anew, as that may be the reason.

    Args:
        settings: What all runs share.
        n: Which worker this is; it chooses the GPU, the only one that the process sees.
        order: The run.
        attempt: 1, 2, ...
        tell: Progress callback: phase, done and total.

    Raises:
        BlockloraError: As ``fit_run`` does; or a file that the run reads has changed since the bench started.
    """
    tell("loading", 0, 1)
    _check_unchanged(order.files)
    torch.set_num_threads(settings.resources.cores)
    if settings.methods_from:
        load_methods(settings.methods_from)
    resumed = attempt == 1 and (order.folder / CONFIG).is_file()
    if not resumed:
        shutil.rmtree(order.folder, ignore_errors=True)
    arguments = dict(order.arguments)
    if settings.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpus[n % len(settings.gpus)]  # read at CUDA's first use
        arguments["device"] = "cuda"
    began = time.monotonic()
    with threadpool_limits(settings.resources.cores), _PeakMemory() as memory:
        metrics = _fit(settings, order.folder, arguments, resumed, tell)
    return RunResult(
        accuracy=metrics["accuracy"],
        n_test=metrics["n_test"],
        trainable_parameters=metrics["trainable_parameters"],
        train_seconds=metrics["train_seconds"],
        peak_memory_bytes=metrics["peak_memory_bytes"] if settings.gpus else memory.peak,
        split_sha256=read_json(order.folder / SPLIT)["hash"],
        created=metrics["created"],
        seconds=time.monotonic() - began,
        resumed=resumed,
        details={name: metrics[name] for name in _DETAILS if name in metrics},
    )


def _fit(
    settings: WorkSettings, folder: Path, arguments: Mapping[str, Any], resume: bool, tell: Tell
) -> Mapping[str, Any]:
    """Call ``fit_run`` with what this worker may use, and return the metrics."""
    _, metrics = fit_run(
        out=folder,
        resume=resume,
        progress=_ToldProgress(tell),
        store=FeatureStore(settings.features),
        resources=settings.resources,
        **arguments,
    )
    return metrics_json(metrics)


def _check_unchanged(files: Mapping[Path, str]) -> None:
    """Raise where a file is no longer the one that the run's key stands for."""
    for path, sha256 in files.items():
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ConfigError(
                f"{path}: changed after the bench was started; start it again, and it does the runs that the change "
                "makes new."
            )


class _PeakMemory:
    """The most memory that this process holds while the block runs, looked at 20 times a second.

    The system's own peak is of the process's whole life, and a worker does many runs.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss)
            if self._done.wait(_SAMPLE_SECONDS):
                return

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def describe_machine(cores: int, gpus: tuple[str, ...], n_workers: int, threads: int) -> Machine:
    """Describe this machine, without its name.

    Args:
        cores: CPU cores that the bench may use.
        gpus: The names of the GPUs in use.
        n_workers: Processes at work at once.
        threads: CPU threads of each.
    """
    return Machine(
        system=platform.system(),
        processor=platform.machine(),
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        workers=n_workers,
        threads=threads,
    )
