"""How much time is left for what a user gave a time for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """A moment by which everything is to be done.

    Attributes:
        seconds: From its start to that moment.
        began: Its start, as ``time.monotonic`` tells it.
    """

    seconds: float
    began: float = field(default_factory=time.monotonic)

    def passed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began

    def left(self) -> float:
        """Return the seconds that are left; 0 when there are none."""
        return max(0.0, self.seconds - self.passed())
