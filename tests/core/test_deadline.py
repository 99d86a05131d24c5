import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.deadline import Deadline, in_words, parse_seconds
from blocklora.core.errors import ConfigError


def test_what_has_passed_and_what_is_left_are_the_whole():
    deadline = Deadline(100.0, began=time.monotonic() - 40)
    assert 40 <= deadline.passed() < 50
    assert 50 < deadline.left() <= 60


def test_nothing_is_left_after_the_end():
    assert Deadline(1.0, began=time.monotonic() - 2).left() == 0.0


def test_what_is_kept_back_is_not_left():
    deadline = Deadline(100.0).reserve(30).reserve(20)
    assert deadline.reserved == 50
    assert 40 < deadline.left() <= 50


def test_no_limit_is_no_deadline():
    assert Deadline.of(None) is None
    assert Deadline.of(5.0, 7.0) == Deadline(5.0, 7.0)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90s", 90), ("10m", 600), ("10 min", 600), ("2h", 7200), ("1h30m", 5400), ("45", 45), (" 1.5 M ", 90),
     (600, 600)],
)  # fmt: skip
def test_spans_of_time_are_read(limit: str | float, seconds: float):
    assert parse_seconds(limit) == seconds


@pytest.mark.parametrize(
    "limit",
    ["", "0", "0s", -5, 0, "ten minutes", "10x", "10 20", "1m30", True, None, float("nan"), float("inf")],
)
def test_what_is_no_span_of_time_is_named(limit: object):
    with pytest.raises(
        ConfigError, match=f"time limit '{limit}': expected a time such as 90s, 10m, 2h or 1h30m"
    ):
        parse_seconds(limit)


@given(st.integers(1, 10**7))
def test_words_are_near_the_number(seconds: int):
    number, unit = in_words(seconds).split()
    length = {"s": 1, "minutes": 60, "hours": 3600, "days": 86400}[unit]
    assert float(number.replace(",", "")) * length == pytest.approx(seconds, rel=0.06)
