"""When the state of a run is saved; the clock is made up, nothing sleeps."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from blocklora.training._saving import Saver


class Run:
    """A run whose steps and saves take the seconds that they are said to take."""

    def __init__(self, every: float, save_seconds: float) -> None:
        self.now = 1000.0
        self.save_seconds, self.saves = save_seconds, list[float]()
        self.saver = Saver(self._save, every, clock=lambda: self.now)

    def _save(self, step: int) -> None:
        self.saves.append(self.now)
        self.now += self.save_seconds

    def steps(self, count: int, seconds: float) -> None:
        for step in range(count):
            self.now += seconds
            if self.saver.due(last=step + 1 == count):
                self.saver.save(step + 1)


def test_quick_saves_come_when_they_are_due() -> None:
    run = Run(every=20, save_seconds=0.1)
    run.steps(100, 1.0)
    assert [math.floor(when) - 1000 for when in run.saves] == [20, 40, 60, 80, 100]


def test_a_slow_save_is_followed_by_a_long_pause() -> None:
    run = Run(every=20, save_seconds=5)
    run.steps(300, 1.0)
    assert [when - 1000 for when in run.saves] == [20, 125, 230, 315]


def test_a_save_slower_than_the_interval_is_the_last() -> None:
    run = Run(every=20, save_seconds=21)
    run.steps(10_000, 1.0)
    assert [when - 1000 for when in run.saves] == [20]
    run.saver.save(1)  # Ctrl-C saves all the same
    assert len(run.saves) == 2


def test_every_step() -> None:
    run = Run(every=0, save_seconds=9)
    run.steps(7, 1.0)
    assert len(run.saves) == 7


@given(st.floats(0.1, 60), st.floats(0.001, 60), st.floats(0.01, 5), st.integers(1, 3000))
def test_the_share_of_saving_is_bounded(every: float, save_seconds: float, step: float, count: int) -> None:
    """But for the first save, whose duration nobody knows yet, and the one at the end."""
    run = Run(every, save_seconds)
    run.steps(count, step)
    spent = save_seconds * max(0, len(run.saves) - 2)
    assert spent <= 0.05 * (run.now - 1000.0)
