"""What was known of one way to fit when it was kept or passed over: a fact that results carry with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

from blocklora.core.errors import ConfigError

__all__ = ["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """One way to fit, judged on images that it was fitted without. Test images judge none.

    Attributes:
        name: What it is called, such as "gda".
        kept: Whether it is the classifier, or a part of it.
        why: Why it was kept, or was not, in a few words.
        settings: Those that differ from the method's defaults.
        n_images: How many images judged it; 0 if it was not tried, and then the next four are None.
        log_loss: Mean log loss, in nats.
        log_loss_error: Its standard error.
        accuracy: In [0, 1].
        accuracy_error: Its standard error.
        seconds: What judging it took.

    Raises:
        ConfigError: The facts contradict each other.
    """

    name: str
    kept: bool
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_images: int = 0
    log_loss: float | None = None
    log_loss_error: float | None = None
    accuracy: float | None = None
    accuracy_error: float | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check every fact against the others."""
        scores = (self.log_loss, self.log_loss_error, self.accuracy, self.accuracy_error)
        if any((score is None) != (self.n_images == 0) for score in scores):
            raise ConfigError(f"candidate '{self.name}': scores and images that judged it go together.")
        if not all(isfinite(score) for score in scores if score is not None):
            raise ConfigError(f"candidate '{self.name}': a score is no finite number.")

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return asdict(self) | {"settings": dict(self.settings)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Candidate:
        """Return the candidate that ``to_json`` wrote.

        Raises:
            ConfigError: A fact is missing, unknown, or contradicts another.
        """
        known = {field.name for field in fields(cls)}
        if set(facts) - known or not {"name", "kept", "why"} <= set(facts):
            raise ConfigError(
                f"a candidate has the facts {', '.join(map(str, facts))}; expected {', '.join(sorted(known))}."
            )
        return cls(**facts)
