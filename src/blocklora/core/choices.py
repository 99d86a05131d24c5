"""How one setting, or the training step that was kept, was chosen: a fact that results carry with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

from blocklora.core.errors import ConfigError

__all__ = ["Choice", "ChosenBy", "Scalar", "ScoreName", "last_step"]

ChosenBy = Literal["fixed", "validation"]
ScoreName = Literal["accuracy", "log loss"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Choice:
    """How one value was chosen. There is no third way: test images never choose anything.

    Attributes:
        value: What was chosen, ready for JSON: a scalar, or a tuple of scalars.
        by: ``fixed`` before any validation image was looked at, or by ``validation`` images.
        reason: A few words: "given", "the published recipe of CLIP-LoRA", "no validation images", "derived from the
            training features", "cross-validated on the training images". May be empty if ``by`` is ``validation``.
        n_images: How many images chose it; 0 if ``by`` is ``fixed``, else at least 1.
        candidates: How many values were compared; 1 says that the value was fitted, not picked from a list.
        score: The value's score on those images: an accuracy in [0, 1] or a log loss in nats; None if not known.
        score_name: What ``score`` is; None exactly if ``score`` is None.

    Raises:
        ConfigError: The facts contradict each other.
    """

    value: Scalar | tuple[Scalar, ...]
    by: ChosenBy
    reason: str = ""
    n_images: int = 0
    candidates: int = 1
    score: float | None = None
    score_name: ScoreName | None = None

    def __post_init__(self) -> None:
        """Check every fact against the others."""
        if self.by not in get_args(ChosenBy):
            raise ConfigError(f"by is {self.by!r}; expected 'fixed' or 'validation'.")
        if self.score_name not in (None, *get_args(ScoreName)):
            raise ConfigError(f"score_name is {self.score_name!r}; expected 'accuracy' or 'log loss'.")
        if (self.score is None) != (self.score_name is None):
            raise ConfigError("score and score_name go together; give both, or neither.")
        if self.score is not None and not isfinite(self.score):
            raise ConfigError(f"score is {self.score}; expected a finite number.")
        if self.candidates < 1:
            raise ConfigError(f"candidates is {self.candidates}; expected 1 or more.")
        if self.by == "fixed" and (self.n_images or self.score is not None or self.candidates != 1):
            raise ConfigError("a fixed value has no validation images, no score and no other candidates.")
        if self.by == "fixed" and not self.reason:
            raise ConfigError("a fixed value needs a reason, such as 'given'.")
        if self.by == "validation" and self.n_images < 1:
            raise ConfigError(f"n_images is {self.n_images}; expected 1 or more for a value chosen by them.")

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object; a tuple becomes a list."""
        facts = asdict(self)
        return facts | {"value": list(self.value)} if isinstance(self.value, tuple) else facts

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Choice:
        """Return the choice that ``to_json`` wrote.

        Raises:
            ConfigError: A fact is missing, unknown, or contradicts another.
        """
        known = {field.name for field in fields(cls)}
        if set(facts) - known or not {"value", "by"} <= set(facts):
            raise ConfigError(
                f"a choice has the facts {', '.join(map(str, facts))}; expected {', '.join(sorted(known))}."
            )
        value = facts["value"]
        return cls(**{**facts, "value": tuple(value) if isinstance(value, list) else value})


def last_step(steps: int, recipe: str) -> dict[str, Choice]:
    """Return the choices of a method that chooses nothing: the last step is kept, and ``recipe`` names the settings."""
    return {
        "kept step": Choice(steps, "fixed", "the last step"),
        "settings": Choice("as published or given", "fixed", f"the published recipe of {recipe}, or given"),
    }
