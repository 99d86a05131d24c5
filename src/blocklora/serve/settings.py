"""How a service is set up: what it serves, where it listens, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

from blocklora.core.errors import ConfigError

__all__ = ["BackendKind", "Limits", "Settings"]

BackendKind: TypeAlias = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Limits:
    """What one process of the service takes on; more is refused.

    Attributes:
        max_batch: Images that are computed at a time.
        max_wait: Seconds that an image waits for others to share its batch, while others are on their way.
        queue: Images a model, from the first byte of a request to its answer; more get 429.
        max_images: Images of one request; more get 413.
        max_body: Bytes of one request; more get 413.
        max_pixels: Width times height of an image; more get 413, before anything is decoded.
        timeout: Seconds that a request may take, its body included: 408 while it is read, 503 afterwards.
    """

    max_batch: int = 32
    max_wait: float = 0.005
    queue: int = 64
    max_images: int = 32
    max_body: int = 20_000_000
    max_pixels: int = 50_000_000
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not positive, or the queue is shorter than one request may be.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name == "max_wait")):
                raise ConfigError(f"{field.name} is {value}: give a number above 0")
        if self.max_images > self.queue:
            raise ConfigError(
                f"max_images is {self.max_images}, and queue is {self.queue}: a request of so many images would "
                "never be taken; make the queue at least as long"
            )


@dataclass(frozen=True)
class Settings:
    """What a process of the service is made from.

    Attributes:
        runs: RUN folders, or exported folders; each is served under the folder's name.
        backend: What computes.
        device: Where torch computes.
        coverage: How often the true class should be in an image's set; None makes no sets.
        false_alarms: How many images of the classes may be called unknown, as a share; None: none are.
        explain: Whether requests may ask why, and so see training images.
        token: What every request must bring, as ``Authorization: Bearer TOKEN``; None: nothing.
        workers: Processes side by side.
        limits: What each of them takes on.
    """

    runs: tuple[Path, ...]
    backend: BackendKind = "torch"
    device: str = "auto"
    coverage: float | None = None
    false_alarms: float | None = None
    explain: bool = False
    token: str | None = None
    workers: int = 1
    limits: Limits = Limits()

    def named(self) -> dict[str, Path]:
        """Return the folders by the names under which they are served.

        Raises:
            ConfigError: Two have the same name.
        """
        found: dict[str, Path] = {}
        for run in self.runs:
            name = run.resolve().name
            if name in found:
                raise ConfigError(
                    f"{run}: another folder is served as '{name}' already ({found[name]}): rename one"
                )
            found[name] = run
        return found
