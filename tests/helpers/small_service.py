"""A service whose classifier is a few lines: how bright is an image? It can be held up, and tells what it was asked."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from blocklora.data import open_for_model
from blocklora.serve.app import create_app
from blocklora.serve.backend import Answer, BackendFacts, NearImage, Why
from blocklora.serve.metrics import Metrics
from blocklora.serve.service import Service
from blocklora.serve.settings import Limits


class Brightness:
    """A backend of two classes; ``gate`` holds its batches up, ``sizes`` are theirs."""

    def __init__(self, explains: bool = False) -> None:
        self.facts = BackendFacts(("dark", "light"), "brightness", "numpy", explains=explains)
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()
        self.prepared = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.fault: Exception | None = None
        self.more: dict[str, Any] = {}

    def prepare(self, content: bytes, name: str) -> NDArray[np.float32]:
        """Return the image as (3, 8, 8) in 0..1."""
        self.prepared.release()
        image = open_for_model(content, 8, name=name).resize((8, 8))
        return np.asarray(image, np.float32).transpose(2, 0, 1) / 255

    def answer(self, pixel_values: NDArray[np.float32]) -> list[Answer]:
        """Return 1 - mean and mean of each."""
        self.begun.set()
        assert self.gate.wait(20)
        self.sizes.append(len(pixel_values))
        if self.fault:
            raise self.fault
        light = pixel_values.mean(axis=(1, 2, 3)).astype(np.float64)
        return [Answer(row, **self.more) for row in np.stack([1 - light, light], axis=1)]

    def explain(self, pixel_values: NDArray[np.float32]) -> list[Why]:
        """Return the same for every image: the left half speaks for the answer, the right one against it."""
        small = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
        near = (NearImage("day/1.png", "light", 0.9, small), NearImage("night/1.png", "dark", 0.1, None))
        return [Why((("light", 1.5), ("dark", -1.5)), near, ((1.0, -1.0), (1.0, -1.0))) for _ in pixel_values]


def png(grey: int = 255, side: int = 8, **more: Any) -> bytes:
    """Return a PNG of one grey value."""
    return encoded(Image.new("L", (side, side), grey), "PNG", **more)


def encoded(image: Image.Image, kind: str, **more: Any) -> bytes:
    """Return the bytes of an image's file."""
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


class Small:
    """An application on two such classifiers, ``lamp``, which says why, and ``moon``, with its log."""

    def __init__(self, token: str | None = None, **limits: Any) -> None:
        self.backend = Brightness(explains=True)
        self.log: list[dict[str, Any]] = []
        self.service = Service(
            {"lamp": self.backend, "moon": Brightness()}, replace(Limits(), **limits), Metrics()
        )
        self.app: FastAPI = create_app(self.service, token=token, log=self.log.append)

    @contextmanager
    def client(self) -> Iterator[TestClient]:
        """Call it in this process; a fault of the service is an answer, not an exception."""
        with TestClient(self.app, raise_server_exceptions=False) as client:
            yield client


@contextmanager
def listening(app: FastAPI) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run an application on a free port; yields its address, and what makes it begin to stop."""
    ready, ending = threading.Event(), threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, *arguments: Any, **more: Any) -> None:
            await super().startup(*arguments, **more)
            ready.set()

        async def shutdown(self, *arguments: Any, **more: Any) -> None:
            ending.set()
            await super().shutdown(*arguments, **more)

        def stop(self) -> None:
            self.should_exit = True
            assert ending.wait(20)

    server = Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server.stop
    finally:
        server.stop()
        thread.join(20)
