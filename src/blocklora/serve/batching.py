"""Concurrent requests share batches: one bounded queue a model, a largest batch, and a longest wait.

Axes: B = images of a batch, C = 3 colours, S = the side of the model's square.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batcher", "QueueFull"]

_A = TypeVar("_A")  # what is answered for one image

_MOST_RETRY = 60  # seconds
_MEMORY = 0.8  # of the mean time of an image: how much of it an older batch keeps


class QueueFull(Exception):
    """There is no room for more images now.

    Args:
        retry_after: Seconds after which there should be, in whole numbers, 1 or more.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the service is busy: try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False)
class _Waiting(Generic[_A]):
    """One image that waits for its answer."""

    pixel_values: NDArray[np.float32]  # (C, S, S)
    answer: asyncio.Future[_A]
    arrived: float = field(default_factory=monotonic)


class Batcher(Generic[_A]):
    """Gathers images into batches, and hands each image its own answer.

    A batch starts when it is full, when its oldest image has waited ``max_wait`` seconds, or when no other image is on
    its way. While one batch is computed the next ones gather. An image whose request was given up takes no place.

    Args:
        compute: Takes (B, C, S, S) and returns B answers; it runs in a thread of its own.
        max_batch: The largest B.
        max_wait: The longest wait in seconds.
        room: How many images may be here at a time, from ``admit`` to its end.
        on_batch: Called with B and the seconds that a batch took.
        on_held: Called with the number of images that are here, when it changes.
    """

    def __init__(
        self,
        compute: Callable[[NDArray[np.float32]], Sequence[_A]],
        *,
        max_batch: int,
        max_wait: float,
        room: int,
        on_batch: Callable[[int, float], None] = lambda n, seconds: None,
        on_held: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._compute, self._on_batch, self._on_held = compute, on_batch, on_held
        self._max_batch, self._max_wait, self._room = max_batch, max_wait, room
        self._queue: deque[_Waiting[_A]] = deque()  # bounded by ``admit``
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._task: asyncio.Task[None] | None = None
        self._seconds_per_image = 0.0
        self.held = 0

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for one in self._queue:
            one.answer.cancel()
        self._thread.shutdown()

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._task is not None and not self._task.done()

    @contextmanager
    def admit(self, n: int = 1) -> Iterator[None]:
        """Keep room for n images until the block ends.

        Raises:
            QueueFull: There is none.
        """
        if self.held + n > self._room:
            seconds = math.ceil(self.held * self._seconds_per_image)
            raise QueueFull(min(_MOST_RETRY, max(1, seconds)))
        self._hold(n)
        try:
            yield
        finally:
            self._hold(-n)

    async def ask(self, pixel_values: NDArray[np.float32]) -> _A:
        """Return the answer to one image (C, S, S), for which ``admit`` has kept room."""
        waiting: _Waiting[_A] = _Waiting(pixel_values, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._changed.set()
        return await waiting.answer

    async def _run(self) -> None:
        """Compute batch after batch."""
        while True:
            batch = await self._gather()
            try:
                began = monotonic()
                answers = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._compute, np.stack([one.pixel_values for one in batch])
                )
                self._note(len(batch), monotonic() - began)
            except asyncio.CancelledError:
                for one in batch:
                    one.answer.cancel()
                raise
            except Exception as error:  # each request of the batch fails, and the next batch is computed
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    async def _gather(self) -> list[_Waiting[_A]]:
        """Wait for the images of the next batch, one or more."""
        while True:
            self._queue = deque(one for one in self._queue if not one.answer.done())
            n = min(len(self._queue), self._max_batch)
            left = self._queue[0].arrived + self._max_wait - monotonic() if n else None
            if n == self._max_batch or (left is not None and (left <= 0 or self.held <= n)):
                return [self._queue.popleft() for _ in range(n)]
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _hold(self, n: int) -> None:
        """Count n images more."""
        self.held += n
        self._on_held(self.held)
        self._changed.set()

    def _note(self, n: int, seconds: float) -> None:
        """Remember how long an image takes."""
        self._seconds_per_image = _MEMORY * self._seconds_per_image + (1 - _MEMORY) * seconds / n
        self._on_batch(n, seconds)
