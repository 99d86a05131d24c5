"""One process that answers, or several: loading, listening, and an end that leaves no request without its answer."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from blocklora.core.errors import BlockloraError, ConfigError
from blocklora.core.resources import available_resources
from blocklora.serve.app import create_app
from blocklora.serve.backend import Backend
from blocklora.serve.metrics import FOLDER, Metrics
from blocklora.serve.service import Service
from blocklora.serve.settings import Settings

__all__ = ["load_backends", "make_app", "serve"]

_PATIENCE = 60  # seconds in which a worker must answer its parent, also on a busy machine


def serve(settings: Settings, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Answer requests until the process is told to stop (SIGTERM, Ctrl-C); those in flight are answered first.

    Args:
        settings: What to serve.
        host: Where to listen.
        port: Where to listen; 0 takes any free port.
        on_start: Called with the service's address when it begins.

    Raises:
        BlockloraError: A folder cannot be served, or the port cannot be had.
    """
    settings.named()
    with _listen(host, port) as listener:
        address = _address(host, listener.getsockname()[1])
        if settings.workers == 1:
            app = make_app(settings)
            with _signals_end_quietly():
                on_start(address)
                uvicorn.Server(_config(settings, app)).run(sockets=[listener])
            return
        on_start(address)
        with tempfile.TemporaryDirectory(prefix="blocklora-metrics-") as folder:
            os.environ[FOLDER] = folder
            try:
                _supervise(settings, listener)
            finally:
                del os.environ[FOLDER]


def make_app(settings: Settings) -> FastAPI:
    """Load the models and make the application."""
    service = Service(load_backends(settings), settings.limits, Metrics())
    return create_app(service, token=settings.token)


def load_backends(settings: Settings) -> dict[str, Backend]:
    """Load every model, by name; torch is imported only where it computes.

    Raises:
        BlockloraError: One cannot be served.
    """
    named, threads = settings.named(), _threads(settings)
    if settings.backend == "onnx":
        if (settings.coverage, settings.false_alarms, settings.explain) != (None, None, False):
            raise ConfigError(
                "an exported folder makes no sets, knows no unknown images and does not say why: serve the RUN folder"
            )
        from blocklora.serve.onnx_backend import OnnxBackend

        return {name: OnnxBackend(run, threads=threads) for name, run in named.items()}
    from blocklora.serve.torch_backend import TorchBackend

    return {
        name: TorchBackend(
            run,
            device=settings.device,
            threads=threads,
            coverage=settings.coverage,
            false_alarms=settings.false_alarms,
            explain=settings.explain,
        )
        for name, run in named.items()
    }


def _threads(settings: Settings) -> int | None:
    """Return how many cores each of several workers computes on."""
    cores = available_resources().cores
    return None if settings.workers == 1 else max(1, cores // settings.workers)


class _Supervisor(Multiprocess):
    """uvicorn's parent of several workers, which notices at once when one of them dies."""

    def keep_subprocess_alive(self) -> None:
        """Start another worker for one that has died, unless it could not start at all."""
        if os.name != "nt":  # there a worker may not have taken its end of the pipe yet
            for process in self.processes:
                process.child_conn.close()  # while the parent has that end too, a dead worker looks like a slow one
        super().keep_subprocess_alive()


def _supervise(settings: Settings, listener: socket.socket) -> None:
    """Run the workers, and start another one for one that dies."""
    parent = _Supervisor(_config(settings, partial(_worker_app, settings)), sockets=[listener])
    parent.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in parent.processes):
        raise ConfigError("the workers could not start: what they have written above says why")


def _worker_app(settings: Settings) -> FastAPI:
    """Make a worker's application; where it cannot be made, its parent is told not to try again."""
    try:
        return make_app(settings)
    except BlockloraError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(STARTUP_FAILURE)


def _config(settings: Settings, app: Callable[..., object]) -> uvicorn.Config:
    """Return how uvicorn runs an application, or, of several workers, what makes it."""
    return uvicorn.Config(
        app,
        factory=settings.workers > 1,
        workers=settings.workers,
        interface="asgi3",
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.limits.timeout) + 1,
        timeout_worker_healthcheck=_PATIENCE,
    )


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the socket.

    Raises:
        ConfigError: The port is taken or may not be had, or there is no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen at {_address(host, port)} ({reason}): choose another --port or --host"
        ) from error
    with listener:
        yield listener


def _address(host: str, port: int) -> str:
    """Return a service's address as a browser takes it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C be the way in which a service ends: uvicorn raises them again when it has ended."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
