"""Facts that JSON holds by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

__all__ = ["Listed"]


class Listed:
    """The dataclasses of plain values and tuples, which are lists in JSON."""

    def to_json(self) -> Mapping[str, object]:
        """Return everything by name, ready for JSON."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]  # a dataclass
        return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Return what ``to_json`` gave."""
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        )
