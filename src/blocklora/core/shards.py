"""One part of n of a job, chosen by a hash of names: machines that never speak to each other agree on who does what."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from blocklora.core.errors import ConfigError

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard:
    """Part ``place`` of ``of``, counted from 1.

    Examples:
        >>> Shard.parse("2/8").name
        '2-of-8'
    """

    place: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8".

        Raises:
            ConfigError: It is nothing like it.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), flags=re.ASCII)
        place, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= place <= of:
            raise ConfigError(f"shard '{text}': expected I/N with I from 1 to N, such as 2/8.")
        return cls(place, of)

    @property
    def name(self) -> str:
        """How files of this part are named."""
        return f"{self.place}-of-{self.of}"

    def file(self, path: Path) -> Path:
        """Return this part's own file: "answers.2-of-8.csv" of "answers.csv"."""
        return path.with_name(f"{path.stem}.{self.name}{path.suffix}")

    def has(self, name: str) -> bool:
        """Return whether a thing belongs to this part; it belongs to exactly one of the n."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.place - 1
