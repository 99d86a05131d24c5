"""Everything a user chooses about a fit but the data, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from blocklora.clip import TINY
from blocklora.core.deadline import parse_seconds
from blocklora.core.device import resolve_device, resolve_precision
from blocklora.core.errors import ConfigError
from blocklora.core.seeds import check_seed
from blocklora.core.words import did_you_mean
from blocklora.data import prompts
from blocklora.methods.settings import make_settings, settings_json
from blocklora.methods.table import METHODS, find_method

__all__ = ["DEFAULT_MODEL", "DEFAULT_PROMPT", "FitConfig", "check_parameters", "fit_config", "model_defaults"]

DEFAULT_MODEL = "openai/clip-vit-base-patch16"
DEFAULT_PROMPT = "a photo of a {}."


@dataclass(frozen=True)
class FitConfig:
    """What a fit does. ``fit_config`` makes it.

    Attributes:
        method: A name in ``METHODS``.
        settings: Of the method, all of them.
        model: A hub id, a folder, or ``tiny``.
        revision: A branch, tag or commit on the hub; None is the cached or newest one.
        shots: Images a class to train on; None takes all.
        seed: Where all randomness comes from.
        prompt: The sentence that a class name stands in while training, with one ``{}``.
        ensemble: Templates whose mean class features predict; empty: ``prompt`` alone.
        device: Where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        deterministic: Whether only kernels that repeat to the last bit may be used.
        given: The names of the settings that were given; the others have their defaults.
        time_limit: Seconds in which everything is to be done; None: it takes as long as the recipe takes.
    """

    method: str
    settings: Any
    model: str
    revision: str | None
    shots: int | None
    seed: int
    prompt: str
    ensemble: tuple[str, ...]
    device: torch.device
    precision: str
    deterministic: bool = False
    given: frozenset[str] = frozenset()
    time_limit: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every value, those of the method's settings among them, ready for JSON."""
        own: dict[str, Any] = {
            "model": self.model,
            "method": self.method,
            "shots": self.shots,
            "seed": self.seed,
            "prompt": self.prompt,
            "ensemble": list(self.ensemble),
            "device": str(self.device),
            "precision": self.precision,
        }
        if self.revision is not None:
            own["revision"] = self.revision
        if self.deterministic:
            own["deterministic"] = True
        if self.time_limit is not None:
            own["time_limit"] = self.time_limit
        return own | settings_json(self.settings)


def fit_config(
    *,
    model: str = DEFAULT_MODEL,
    method: str = "block-lora",
    revision: str | None = None,
    shots: int | None = None,
    seed: int = 0,
    prompt: str = DEFAULT_PROMPT,
    ensemble: Sequence[str] = (),
    device: str | torch.device = "auto",
    precision: str = "auto",
    deterministic: bool = False,
    time_limit: str | float | None = None,
    **settings: Any,
) -> FitConfig:
    """Check everything that can be checked without opening a file.

    Args:
        model: See ``FitConfig``, as the others.
        method: A name in ``METHODS``.
        revision: Of the model on the hub.
        shots: Images a class.
        seed: From 0 to 2**63 - 1.
        prompt: With one ``{}``.
        ensemble: For the methods that can make something of several prompts.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or a ``torch.device``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        deterministic: See ``FitConfig``.
        time_limit: Such as "10m", or a number of seconds; see ``FitConfig``.
        **settings: The method's own settings; the others have their defaults, see ``model_defaults``.

    Raises:
        ConfigError: A name is unknown, or a value cannot work.
    """
    how = find_method(method)
    ensemble = _checked_templates(prompt, ensemble)
    if ensemble and how.prompts == "one":
        several = [name for name, other in METHODS.items() if other.prompts != "one"]
        raise ConfigError(
            f"an ensemble of prompts needs a method that reads prompts as they are, not {method}: expected one of "
            f"{', '.join(several)}."
        )
    where = resolve_device(str(device))
    return FitConfig(
        method=method,
        settings=make_settings(method, how.settings, {**model_defaults(method, str(model)), **settings}),
        model=str(model),
        revision=revision,
        shots=_checked_shots(shots),
        seed=check_seed(seed),
        prompt=prompt,
        ensemble=ensemble,
        device=where,
        precision=resolve_precision(precision, where),
        deterministic=deterministic,
        given=frozenset(settings),
        time_limit=None if time_limit is None else parse_seconds(time_limit),
    )


def _checked_templates(prompt: object, ensemble: object) -> tuple[str, ...]:
    """Return the templates of an ensemble, after checking that these and the prompt are texts with a place for a name.

    Raises:
        ConfigError: One is none.
    """
    if not isinstance(ensemble, (list, tuple)):
        raise ConfigError(
            f"ensemble '{ensemble}': expected a list of templates such as 'a photo of a {{}}.'."
        )
    for name, template in [("prompt", prompt), *(("ensemble", template) for template in ensemble)]:
        if not isinstance(template, str):
            raise ConfigError(f"{name} '{template}': expected a text such as 'a photo of a {{}}.'.")
        prompts(["class"], template)
    return tuple(ensemble)


def model_defaults(method: str, model: str) -> Mapping[str, Any]:
    """Return the settings whose defaults are other than the published ones for a model: for the bundled one alone.

    Args:
        method: A name in ``METHODS``.
        model: As ``fit_config`` takes it.
    """
    return getattr(find_method(method).settings, "BUNDLED_MODEL", {}) if model == TINY else {}


def _checked_shots(shots: object) -> int | None:
    """Return the number of shots as a whole number, or None."""
    if shots is None:
        return None
    try:
        found = shots.__index__()  # type: ignore[attr-defined]  # numpy's whole numbers have it, too
    except (AttributeError, TypeError):
        found = 0
    if isinstance(shots, bool) or found < 1:
        raise ConfigError(f"shots '{shots}': expected a whole number of at least 1, or None for all images.")
    return int(found)


def check_parameters(names: Iterable[str], own: Iterable[str], given: Iterable[str]) -> None:
    """Check that each name is a parameter of the estimator, or an option of some method.

    Args:
        names: To check.
        own: The estimator's parameters.
        given: Options that it was made with.

    Raises:
        ConfigError: A name is none of these.
    """
    of_methods = {field.name for method in METHODS.values() for field in fields(method.settings)}
    known = {*own, *of_methods, *given}
    for name in set(names) - known:
        expected = f"{', '.join(own)}, or an option of the method{did_you_mean(name, known)}"
        raise ConfigError(f"unknown parameter '{name}': expected {expected}.")
