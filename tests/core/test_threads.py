from __future__ import annotations

import threading

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


@pytest.mark.parametrize("cores", [1, 2, 8, 16, 64])
def test_no_more_results_exist_than_are_counted(cores: int) -> None:
    most = released = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal most
        with lock:
            most = max(most, item + 1 - released)
        return item

    ahead = read_ahead(work, range(60), cores=cores)
    for item in range(60):
        assert next(ahead) == item
        released += 1
    assert most <= results_held(cores)


def test_the_result_in_use_belongs_to_the_caller_alone() -> None:
    ahead = read_ahead(lambda item: [item], range(3))
    result = next(ahead)
    assert all(value is not result for value in ahead.gi_frame.f_locals.values())
    assert all(future.result() is not result for future in ahead.gi_frame.f_locals["waiting"])
    ahead.close()


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
