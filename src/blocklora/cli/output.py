"""Where the command line writes: results to stdout, all else to stderr, in any encoding, also into a closed pipe."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any, NoReturn

from rich.console import Console

__all__ = ["ERR", "OUT", "end_output", "is_first", "print_json", "take_any_name", "write"]

_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE has ended: 128 + 13


class _Stream(Console):
    """A console whose reader may go away at any time, as ``head`` does."""

    def on_broken_pipe(self) -> None:
        """End the command without a word."""
        _leave()


OUT = _Stream(highlight=False)
ERR = _Stream(stderr=True, highlight=False)


def is_first() -> bool:
    """Return whether this is the first of the processes that torchrun has started, or the only one: it alone prints."""
    return os.environ.get("RANK", "0") == "0"


def take_any_name() -> None:
    r"""Write what a stream's encoding lacks as escapes, such as ``\u72ac``: a name must not lose a result."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Write to stdout, at once; where nobody reads any more the command ends."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EINVAL:  # Windows says EINVAL
            raise
        _leave()


def end_output() -> None:
    """Write what is still waiting for stdout, so that the interpreter finds nothing to complain of."""
    write("")


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, in ASCII: it is UTF-8 in whatever encoding stdout has."""
    write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _leave() -> NoReturn:
    """End as a program ends whose reader has gone away; what is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    raise SystemExit(_PIPE_CLOSED)
