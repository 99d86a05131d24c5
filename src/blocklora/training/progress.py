"""How far training is, said on stderr."""

from __future__ import annotations

import math
import sys
import time

from blocklora.training.minimise import OnStep

__all__ = ["progress_on_stderr"]

_SHOW_SECONDS = 2.0


def progress_on_stderr() -> OnStep:
    """Return a progress callback that prints a line every two seconds, and one at the last step."""
    shown = -math.inf

    def say(step: int, total: int, loss: float, lr: float) -> None:
        nonlocal shown
        if step == total or time.monotonic() - shown >= _SHOW_SECONDS:
            shown = time.monotonic()
            print(f"step {step} of {total}: loss {loss:.4f}, learning rate {lr:.2g}", file=sys.stderr)

    return say
