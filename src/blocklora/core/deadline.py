"""How much time is left for what a user gave a time for."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field, replace

from blocklora.core.errors import ConfigError

__all__ = ["Deadline", "in_words", "parse_seconds"]

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Deadline:
    """A moment by which everything is to be done.

    Attributes:
        seconds: From its start to that moment.
        began: Its start, as ``time.monotonic`` tells it.
        reserved: Seconds that are kept back for what comes after, such as the evaluation.
    """

    seconds: float
    began: float = field(default_factory=time.monotonic)
    reserved: float = 0.0

    @classmethod
    def of(cls, seconds: float | None, began: float | None = None) -> Deadline | None:
        """Return the deadline of a time limit that began then, or now; None where there is no limit."""
        return None if seconds is None else cls(seconds, time.monotonic() if began is None else began)

    def passed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began

    def left(self) -> float:
        """Return the seconds that are left, those kept back not counted; 0 when there are none."""
        return max(0.0, self.seconds - self.reserved - self.passed())

    def reserve(self, seconds: float) -> Deadline:
        """Return the same moment, with so many more seconds kept back."""
        return replace(self, reserved=self.reserved + seconds)


def parse_seconds(limit: object) -> float:
    """Read a span of time: "90s", "10m", "2h", "1h30m", or plain seconds, as a text or a number.

    Raises:
        ConfigError: It is none, or not positive.
    """
    seconds = 0.0
    if isinstance(limit, (int, float)) and not isinstance(limit, bool):
        seconds = float(limit)
    elif isinstance(limit, str):
        part = r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|)\s*"
        if re.fullmatch(rf"(?:{part})|(?:\s*\d+(?:\.\d+)?\s*(?:s|min|m|h)\s*)+", limit.lower()):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(part, limit.lower()))
    if not 0 < seconds < math.inf:
        raise ConfigError(f"time limit '{limit}': expected a time such as 90s, 10m, 2h or 1h30m.")
    return seconds


def in_words(seconds: float) -> str:
    """Write a span of time as one would say it: "45 s", "12 minutes", "3.4 hours", "2.1 days"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
    if seconds < 5940:
        return f"{seconds / 60:.3g} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.2g} hours"
    return f"{seconds / 86400:,.0f} days" if seconds >= 9.95 * 86400 else f"{seconds / 86400:.2g} days"
