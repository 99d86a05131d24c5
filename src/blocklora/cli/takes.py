"""From a dataclass of options to the signature of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

__all__ = ["takes"]

_O = TypeVar("_O")


def takes(options: type[_O]) -> Callable[[Callable[[_O], None]], Callable[..., None]]:
    """Return a decorator that gives a command the fields of a dataclass as its options."""
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)  # type: ignore[arg-type]
    ]

    def give(command: Callable[[_O], None]) -> Callable[..., None]:
        def with_options(**given: Any) -> None:
            command(options(**given))

        with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {}
        return with_options

    return give
