"""What a worker process does: one run of a grid, through the same ``fit_run`` that ``blocklora fit`` calls."""

from __future__ import annotations

import os
import platform
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from threadpoolctl import threadpool_limits

from blocklora.bench.user_methods import load_methods
from blocklora.classifier.store import FOLDER_VARIABLE
from blocklora.run.fit import fit_run
from blocklora.run.folder import CONFIG, SPLIT, read_json

__all__ = ["RunOrder", "WorkSettings", "do_run", "machine"]

_KEPT = (
    "accuracy", "accuracy_interval", "mean_class_accuracy", "ece", "nll", "zero_shot_accuracy", "n_test", "n_correct",
    "n_classes", "n_train", "n_val", "temperature", "trainable_parameters", "total_parameters", "train_seconds",
    "peak_memory_bytes", "prompt", "precision", "selection", "selected_by", "notes", "versions", "created",
)  # fmt: skip
_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class WorkSettings:
    """What all runs of a worker share: threads, the GPUs' ids (none for a CPU), folders, and the user's own methods."""

    threads: int
    gpus: tuple[str, ...]
    features: Path
    methods_from: Path | None


@dataclass(frozen=True)
class RunOrder:
    """One run to do: its key, what ``fit_run`` is called with, and the folder it may use."""

    key: str
    arguments: dict[str, Any]
    folder: Path


class _Steps:
    """Passes a run's progress on."""

    def __init__(self, tell: Callable[[str, int, int], None]) -> None:
        self._tell = tell

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        self._tell("training", step, total)

    def encoded(self, done: int, total: int) -> None:
        """Test pictures have been encoded."""
        self._tell("testing", done, total)


def do_run(
    settings: WorkSettings, n: int, order: RunOrder, attempt: int, tell: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Do one run, and return what its line in the results says.

    The first attempt goes on with an unfinished RUN folder; a later one starts anew, as that may be the reason.

    Args:
        settings: What all runs share.
        n: Which worker this is; it chooses the GPU, the only one that the process sees.
        order: The run.
        attempt: 1, 2, ...
        tell: Told phase, done and total.
    """
    tell("loading", 0, 1)
    os.environ[FOLDER_VARIABLE] = str(settings.features)
    torch.set_num_threads(settings.threads)
    if settings.methods_from:
        load_methods(settings.methods_from)
    resumed = attempt == 1 and (order.folder / CONFIG).is_file()
    if not resumed:
        shutil.rmtree(order.folder, ignore_errors=True)
    arguments = dict(order.arguments)
    if settings.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpus[n % len(settings.gpus)]  # read at CUDA's first use
        arguments["device"] = "cuda"
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    with threadpool_limits(settings.threads), _PeakMemory() as memory:
        data = arguments.pop("data")
        _, metrics = fit_run(data, order.folder, resume=resumed, progress=_Steps(tell), **arguments)
    record = {name: metrics[name] for name in _KEPT if name in metrics}
    if not settings.gpus:
        record["peak_memory_bytes"] = memory.peak
    return record | {
        "seconds": time.monotonic() - began,
        "resumed": resumed,
        "split_sha256": read_json(order.folder / SPLIT)["hash"],
    }


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


def machine(n_workers: int, settings: WorkSettings) -> dict[str, Any]:
    """Describe the machine, without its name, for the results."""
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if settings.gpus else []
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus[: len(settings.gpus)],
        "workers": n_workers,
        "threads": settings.threads,
    }
