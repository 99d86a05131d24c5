"""Work that threads do ahead of time, with a bounded number of results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from blocklora.core.resources import available_resources

__all__ = ["read_ahead", "results_held", "worker_threads"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_FEWEST, _MOST = 2, 8


def worker_threads(cores: int) -> int:
    """Return how many threads read ahead: one for every two cores, at least two and at most eight."""
    return min(_MOST, max(_FEWEST, cores // 2))


def results_held(cores: int) -> int:
    """Return how many results of ``read_ahead`` exist at a time by default, the one in use included."""
    return worker_threads(cores) + 2


def read_ahead(
    work: Callable[[_In], _Out], items: Iterable[_In], *, ahead: int | None = None, cores: int | None = None
) -> Generator[_Out, None, None]:
    """Yield ``work(item)`` for each item, in order, while threads prepare the next ones.

    At most ``ahead + 1`` results exist at a time, begun ones and the one in use included, if the caller lets go of
    each before it asks for the next.

    Args:
        work: What to do; images are decoded and resized outside of Python's lock.
        items: What to do it to; they are asked for as they come into reach, by the caller's thread.
        ahead: How many results may be begun or waiting beside the one in use; None is one more than there are threads.
        cores: Cores to use; None is all that this process may use.
    """
    workers = worker_threads(cores or available_resources().cores)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        source = iter(items)
        waiting: deque[Future[_Out]] = deque(
            pool.submit(work, item) for item in islice(source, ahead or workers + 1)
        )
        try:
            while waiting:
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield waiting.popleft().result()  # kept in no variable, so that the caller can let go of it
        finally:
            for future in waiting:
                future.cancel()
