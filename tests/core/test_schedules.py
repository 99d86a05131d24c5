from __future__ import annotations

import math
from itertools import pairwise

import pytest

from blocklora.core.schedules import epoch_cosine, step_cosine


def test_schedules() -> None:
    factor = step_cosine(4, last=0.1, start=2)
    assert [factor(step) for step in (0, 1, 6)] == [0.0, 0.0, 0.0]
    assert factor(2) == 1.0
    assert factor(4) == pytest.approx(0.55)
    coop = epoch_cosine(10, 3, 2e-3)
    assert [coop(step) for step in range(3)] == [1e-5 / 2e-3] * 3
    assert coop(3) == coop(5) == 1.0
    assert coop(6) == pytest.approx((1 + math.cos(math.pi / 10)) / 2)
    assert coop(29) == pytest.approx((1 + math.cos(math.pi * 8 / 10)) / 2)


def test_a_cosine_to_a_last_rate() -> None:
    factors = [step_cosine(100, last=1e-6 / 2e-4)(step) for step in range(100)]
    assert factors[0] == 1
    assert factors[99] * 2e-4 == pytest.approx(1e-6, abs=1e-7)
    assert all(a > b for a, b in pairwise(factors))
    assert factors[50] * 2e-4 == pytest.approx((2e-4 + 1e-6) / 2)
    assert step_cosine(10, last=1.0)(5) == 1
