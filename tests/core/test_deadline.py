import time

from blocklora.core.deadline import Deadline


def test_what_has_passed_and_what_is_left_are_the_whole():
    deadline = Deadline(100.0, began=time.monotonic() - 40)
    assert 40 <= deadline.passed() < 50
    assert 50 < deadline.left() <= 60


def test_nothing_is_left_after_the_end():
    assert Deadline(1.0, began=time.monotonic() - 2).left() == 0.0
