"""What Prometheus reads of the service: requests, images, batches, and how full the queues are.

Several processes write into a folder that ``PROMETHEUS_MULTIPROC_DIR`` names, which must be set before this module is
imported; whichever of them is asked answers for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["FOLDER", "METRICS_TYPE", "Metrics"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
METRICS_TYPE = CONTENT_TYPE_LATEST
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        add = self._registry
        self._requests = Counter(
            "blocklora_requests", "Requests that were answered.", ["path", "status"], registry=add
        )
        self._seconds = Histogram(
            "blocklora_request_seconds", "Time to the end of the answer.", ["path"], registry=add
        )
        self._images = Counter("blocklora_images", "Images that were classified.", ["model"], registry=add)
        self._batch = Histogram(
            "blocklora_batch_images", "Images of a batch.", ["model"], buckets=_BATCHES, registry=add
        )
        self._batch_seconds = Histogram(
            "blocklora_batch_seconds", "Time in which a batch was computed.", ["model"], registry=add
        )
        self._held = Gauge(
            "blocklora_held_images",
            "Images from the start of a request to its answer.",
            ["model"],
            registry=add,
            multiprocess_mode="livesum",
        )
        if FOLDER not in os.environ:
            ProcessCollector(registry=self._registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; ``path`` is a route's, so that there are few."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batches_of(self, model: str) -> Callable[[int, float], None]:
        """Return what counts a model's batches: the number of images, and seconds."""
        images, batch = self._images.labels(model), self._batch.labels(model)
        batch_seconds = self._batch_seconds.labels(model)

        def count(n: int, seconds: float) -> None:
            images.inc(n)
            batch.observe(n)
            batch_seconds.observe(seconds)

        return count

    def held_of(self, model: str) -> Callable[[int], None]:
        """Return what tells of the number of images that a model's queue holds."""
        return self._held.labels(model).set

    def page(self) -> bytes:
        """Return the text that Prometheus reads."""
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        _forget_the_dead(Path(os.environ[FOLDER]))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _forget_the_dead(folder: Path) -> None:
    """Leave out the gauges of processes that have ended; their counters stay."""
    for file in folder.glob("gauge_live*_*.db"):
        process = int(file.stem.rpartition("_")[2])
        if not psutil.pid_exists(process):
            mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
