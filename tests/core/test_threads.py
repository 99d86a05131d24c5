from __future__ import annotations

import gc
import weakref

import pytest

from blocklora.core.threads import read_ahead, results_held, worker_threads


def test_read_ahead_keeps_order_and_bounds_what_waits() -> None:
    began: list[int] = []

    def work(item: int) -> int:
        began.append(item)
        return item * item

    results = read_ahead(work, range(10), ahead=3)
    assert next(results) == 0
    assert max(began) <= 3
    assert list(results) == [n * n for n in range(1, 10)]


def test_read_ahead_passes_errors_on_and_may_be_left() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("bad item")
        return item

    results = read_ahead(work, range(5), ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="bad item"):
        next(results)
    left = read_ahead(work, range(2), ahead=1)
    assert next(left) == 0
    left.close()
    assert list(read_ahead(work, [], ahead=2)) == []


class Result:
    """Something whose life can be watched."""


@pytest.mark.parametrize("cores", [1, 2, 8, 16, 64])
def test_no_more_results_exist_than_are_counted(cores: int) -> None:
    alive: weakref.WeakSet[Result] = weakref.WeakSet()
    most = 0

    def work(item: int) -> Result:
        nonlocal most
        result = Result()
        alive.add(result)
        most = max(most, len(alive))
        return result

    ahead = read_ahead(work, range(60), cores=cores)
    count = 0
    while (result := next(ahead, None)) is not None:
        count += 1
        del result
        gc.collect()
    assert count == 60
    assert most <= results_held(cores)


def test_threads() -> None:
    assert [worker_threads(cores) for cores in (1, 2, 4, 7, 16, 64)] == [2, 2, 2, 3, 8, 8]
    assert [results_held(cores) for cores in (2, 16)] == [4, 10]


def test_nothing_begins_beyond_the_bound() -> None:
    """As many begin as may exist; no later one begins while the first is in use."""
    began: list[int] = []
    ahead = read_ahead(lambda item: began.append(item), range(60), cores=16)
    next(ahead)
    ahead.close()  # waits for those that began
    assert len(began) <= results_held(16)
