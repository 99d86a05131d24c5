"""Batches of concurrent requests: their sizes, their waiting, their bound, and what becomes of given-up ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blocklora.serve.batching import Batcher, QueueFull

LONG = 60.0


class Doubles:
    """Doubles each value; ``gate`` holds it up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        self.begun.set()
        assert self.gate.wait(20)
        self.sizes.append(len(batch))
        if (batch < 0).any():
            raise ZeroDivisionError
        return batch.astype(np.float64) * 2


def value(number: float) -> NDArray[np.float32]:
    return np.array([number], np.float32)


async def ask(batcher: Batcher, number: float) -> float:
    with batcher.admit():
        return float((await batcher.ask(value(number)))[0])


def run(
    work: Callable[[Batcher, Doubles], Awaitable[Any]],
    *,
    max_batch: int = 4,
    max_wait: float = LONG,
    room: int = 64,
) -> Any:
    """Do something with a batcher in an event loop of its own."""

    async def inside() -> Any:
        compute = Doubles()
        batcher = Batcher(compute, max_batch=max_batch, max_wait=max_wait, room=room)
        batcher.start()
        try:
            async with asyncio.timeout(20):
                return await work(batcher, compute)
        finally:
            compute.gate.set()
            await batcher.stop()
            assert not batcher.alive

    return asyncio.run(inside())


async def begun(compute: Doubles) -> None:
    """Wait until a batch is being computed."""
    await asyncio.to_thread(compute.begun.wait, 20)
    compute.begun.clear()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), max_batch=st.integers(1, 8))
def test_each_image_gets_its_own_answer(n: int, max_batch: int) -> None:
    async def work(batcher: Batcher, compute: Doubles) -> None:
        assert await asyncio.gather(*(ask(batcher, i) for i in range(n))) == [2 * i for i in range(n)]
        assert sum(compute.sizes) == n
        assert max(compute.sizes) <= max_batch
        assert batcher.held == 0

    run(work, max_batch=max_batch, max_wait=0)


def test_one_more_than_a_batch_becomes_two_batches() -> None:
    async def work(batcher: Batcher, compute: Doubles) -> None:
        await asyncio.gather(*(ask(batcher, i) for i in range(5)))
        assert compute.sizes == [4, 1]

    run(work)


def test_an_image_that_is_alone_does_not_wait() -> None:
    assert run(lambda batcher, compute: ask(batcher, 3)) == 6


def test_an_image_waits_for_those_that_are_on_their_way_but_not_for_ever() -> None:
    async def together(batcher: Batcher, compute: Doubles) -> list[int]:
        with batcher.admit(2):  # one of them comes later
            first = asyncio.create_task(batcher.ask(value(1)))
            await asyncio.sleep(0)
            await asyncio.gather(first, batcher.ask(value(2)))
        return compute.sizes

    async def in_vain(batcher: Batcher, compute: Doubles) -> list[int]:
        with batcher.admit(2):  # the other one never comes
            await batcher.ask(value(1))
        return compute.sizes

    assert run(together) == [2]
    assert run(in_vain, max_wait=0.01) == [1]


def test_what_was_given_up_takes_no_place_in_a_batch() -> None:
    async def work(batcher: Batcher, compute: Doubles) -> None:
        compute.gate.clear()
        first = asyncio.create_task(ask(batcher, 1))
        await begun(compute)
        others = [asyncio.create_task(ask(batcher, i)) for i in range(2, 7)]
        await asyncio.sleep(0)
        others[0].cancel()
        compute.gate.set()
        assert await first == 2
        assert await asyncio.gather(*others[1:]) == [6, 8, 10, 12]
        assert compute.sizes == [1, 4]

    run(work)


def test_all_of_a_batch_may_be_given_up() -> None:
    async def work(batcher: Batcher, compute: Doubles) -> None:
        with batcher.admit(3):
            given_up = asyncio.create_task(batcher.ask(value(1)))
            await asyncio.sleep(0)
            given_up.cancel()
        assert await ask(batcher, 2) == 4
        assert compute.sizes == [1]

    run(work, max_wait=0.05)


def test_more_than_there_is_room_for_is_refused_and_later_taken() -> None:
    async def work(batcher: Batcher, compute: Doubles) -> None:
        with batcher.admit(4), pytest.raises(QueueFull, match="try again in 1 s") as full, batcher.admit(2):
            pass
        assert full.value.retry_after == 1
        with batcher.admit(5):
            assert batcher.held == 5

    run(work, room=5)


def test_a_fault_fails_its_own_batch_alone() -> None:
    async def work(batcher: Batcher, compute: Doubles) -> None:
        results = await asyncio.gather(*(ask(batcher, i) for i in (-1, 1, 2, 3)), return_exceptions=True)
        assert [type(result) for result in results] == [ZeroDivisionError] * 4
        assert await ask(batcher, 2) == 4

    run(work)


def test_who_waits_when_it_stops_is_not_left_waiting() -> None:
    async def inside() -> None:
        compute = Doubles()
        batcher = Batcher(compute, max_batch=1, max_wait=0, room=9)
        batcher.start()
        compute.gate.clear()
        waiting = [asyncio.create_task(ask(batcher, i)) for i in range(3)]
        await begun(compute)
        compute.gate.set()
        await batcher.stop()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} <= {float, asyncio.CancelledError}

    asyncio.run(inside())
