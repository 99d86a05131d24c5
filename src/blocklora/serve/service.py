"""The models of a service, and the way of an image through it: room, decoding, batch, answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blocklora.core.errors import ImageError
from blocklora.core.resources import available_resources
from blocklora.core.threads import worker_threads
from blocklora.data import size_in_header
from blocklora.serve.backend import Answer, Backend, Why
from blocklora.serve.batching import Batcher, QueueFull
from blocklora.serve.metrics import Metrics
from blocklora.serve.refusals import Refusal, busy
from blocklora.serve.settings import Limits

__all__ = ["Model", "Received", "Service"]


@dataclass(frozen=True)
class Received:
    """An image as a request brought it: the bytes of a file, and what to call it."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Model:
    """A classifier with its queues, under the name by which requests ask for it.

    Attributes:
        name: The name.
        backend: The classifier.
        batcher: What keeps room, and answers.
        explainer: What says why; what comes to it has room already.
    """

    name: str
    backend: Backend
    batcher: Batcher[Answer]
    explainer: Batcher[Why]

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self.batcher.alive and self.explainer.alive


class Service:
    """Models that answer.

    Args:
        backends: By name; at least one.
        limits: What is refused.
        metrics: Where batches are counted.
    """

    def __init__(self, backends: Mapping[str, Backend], limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self._decoders = ThreadPoolExecutor(
            worker_threads(available_resources().cores), thread_name_prefix="decode"
        )
        self.models = {
            name: Model(
                name,
                backend,
                Batcher(
                    backend.answer,
                    max_batch=limits.max_batch,
                    max_wait=limits.max_wait,
                    room=limits.queue,
                    on_batch=metrics.batches_of(name),
                    on_held=metrics.held_of(name),
                ),
                Batcher(backend.explain, max_batch=limits.max_batch, max_wait=0, room=0),
            )
            for name, backend in backends.items()
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer until the block ends."""
        for model in self.models.values():
            model.batcher.start()
            model.explainer.start()
        try:
            yield
        finally:
            for model in self.models.values():
                await model.batcher.stop()
                await model.explainer.stop()
            self._decoders.shutdown(cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether every model answers."""
        return all(model.alive for model in self.models.values())

    def find(self, name: str | None) -> Model:
        """Return a model by its name; None is the first one.

        Raises:
            Refusal: There is no such model.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refusal(404, f"there is no model of this name: expected one of {', '.join(self.models)}")
        return self.models[name]

    @contextmanager
    def room(self, model: Model, n: int = 1) -> Iterator[None]:
        """Keep room for n images until the block ends.

        Raises:
            Refusal: There is none.
        """
        try:
            with model.batcher.admit(n):
                yield
        except QueueFull as full:
            raise busy(full.retry_after) from None

    async def classify(self, model: Model, images: Sequence[Received], explain: bool) -> list[Answer]:
        """Return the answers to images for which there is room, and why, if that is asked for.

        Raises:
            Refusal: One of them is too big, of another type, or damaged; the first to be found is named.
        """
        tasks = [asyncio.create_task(self._classify_one(model, image, explain)) for image in images]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _classify_one(self, model: Model, image: Received, explain: bool) -> Answer:
        """Return the answer to one image."""
        loop = asyncio.get_running_loop()
        pixel_values = await loop.run_in_executor(self._decoders, self._prepare, model, image)
        answer = await model.batcher.ask(pixel_values)
        return replace(answer, why=await model.explainer.ask(pixel_values)) if explain else answer

    def _prepare(self, model: Model, image: Received) -> NDArray[np.float32]:
        """Decode one image, after a look at its type and size."""
        status, most = 422, self.limits.max_pixels
        try:
            size = size_in_header(image.content, name=image.name)
            if size is None and image.content:
                status = 415
            elif size is not None and size[0] * size[1] > most:
                raise Refusal(
                    413,
                    f"{image.name}: {size[0]} x {size[1]} pixels are more than the {most} that are taken: "
                    "scale the image down",
                )
            return model.backend.prepare(image.content, image.name)
        except ImageError as error:
            raise Refusal(status, str(error)) from None
