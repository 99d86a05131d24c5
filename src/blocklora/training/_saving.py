"""When the state of a run is saved, and how Ctrl-C waits for the end of a step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blocklora.core.ranks import ALONE, Ranks

__all__ = ["Saver", "stop_between_steps"]

_PAUSES = (
    20  # a save is followed by so many times its own duration without one: at most 5% of the time goes to it
)


class Saver:
    """Decides when to save: every so often, but for at most a twentieth of the time.

    Args:
        save: Saves the state after so many steps.
        every: Seconds from one save to the next; 0 saves after every step. A save that takes longer than this is the
            last that is due.
        clock: Seconds that pass.
    """

    def __init__(
        self, save: Callable[[int], None], every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._save, self._every, self._clock = save, every, clock
        self._next = clock() + every

    def due(self, *, last: bool = False) -> bool:
        """Return whether to save now; after the last step it is due, unless saving takes too long."""
        return self._next < math.inf if last else self._clock() >= self._next

    def save(self, step: int) -> None:
        """Save now, and measure how long it took."""
        began = self._clock()
        self._save(step)
        now = self._clock()
        took = now - began
        if not self._every:
            self._next = now
        elif took > self._every:
            self._next = math.inf
        else:
            self._next = now + max(self._every, _PAUSES * took)


@contextmanager
def stop_between_steps(ranks: Ranks = ALONE) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that no step is cut in half; a second one stops at once.

    Of several ranks so does the request to end, which torchrun sends to all where one of them has ended.
    """
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # set outside of Python
        yield event
        return

    def on_signal(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, on_signal)
    ended = signal.signal(signal.SIGTERM, lambda *_: event.set()) if ranks.count > 1 else None
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
        if ended is not None:
            signal.signal(signal.SIGTERM, ended)
