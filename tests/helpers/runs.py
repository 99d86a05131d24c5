"""What the tests of runs share: short settings, a progress callback that remembers, and files read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ALIKE = ("class_features.safetensors", "adapter/adapter_model.safetensors")
"""What two runs that did the same have byte for byte."""


def settings(model: Path | str, **more: Any) -> dict[str, Any]:
    """Return arguments of ``fit_run`` for a run of a second."""
    untrained = more.get("method") in ("zero-shot", "tip-adapter", "linear-probe", "gda")
    trained = {} if untrained else {"iterations": 4, "lr": 1e-2}
    return {"model": str(model), "shots": 4, "seed": 1, "device": "cpu"} | trained | more


def read(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def names(folder: Path) -> list[str]:
    """Return what is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


class Log:
    """Remembers what it was told of progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.done: list[tuple[int, int]] = []
        self.parts: list[str] = []

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        self.steps.append((step, total))

    def part(self, name: str) -> None:
        """A part of the run begins."""
        self.parts.append(name)

    def encoded(self, done: int, total: int) -> None:
        """Test images have been encoded."""
        self.done.append((done, total))
