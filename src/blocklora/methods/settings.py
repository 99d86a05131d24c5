"""The settings of a method: a small frozen dataclass in its file, and how values get into it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError
from blocklora.training import Curve

__all__ = [
    "as_chosen",
    "make_settings",
    "need",
    "need_positive",
    "need_share",
    "need_whole",
    "parse_settings",
    "settings_json",
]


def make_settings(name: str, kind: type[Any], given: Mapping[str, Any]) -> Any:
    """Return a method's settings: its defaults, and what was given instead.

    Args:
        name: The method's name, for messages.
        kind: The dataclass of its settings.
        given: Values by the names of the dataclass's fields.

    Raises:
        ConfigError: The method has no such setting, or a value cannot work.
    """
    hints = get_type_hints(kind)
    _need_known(name, [field.name for field in fields(kind)], given)
    return kind(**{key: _checked(key, value, hints[key]) for key, value in given.items()})


def parse_settings(name: str, kind: type[Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``name=value`` words of a command line into values of the right types.

    Args:
        name: The method's name, for messages.
        kind: The dataclass of its settings.
        pairs: Words such as ``epochs=50`` or ``context=a photo of a``; ``none`` stands for None.

    Raises:
        ConfigError: A word is no such pair, the method has no such setting, or the value is of another type.
    """
    hints = get_type_hints(kind)
    texts = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        need(bool(equals), "--set", pair, "NAME=VALUE, for example epochs=50")
        texts[key.strip()] = text.strip()
    _need_known(name, [field.name for field in fields(kind)], texts)
    return {key: _parsed(key, text, hints[key]) for key, text in texts.items()}


def settings_json(settings: Any) -> dict[str, Any]:
    """Return settings as JSON-ready values."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()}


def as_chosen(settings: Any, choices: Mapping[str, Choice], training: Curve | None, n_train: int) -> Any:
    """Return settings with every value that a fit chose, so that another fit chooses none of them anew.

    Values that were chosen for a setting of their name are given, and so is the number of steps, or of epochs, that
    was trained, whatever a recipe or a time limit made it. The kept step is no setting.

    Args:
        settings: Of the method.
        choices: Of the fit, by name.
        training: How it trained; None where it did not.
        n_train: How many images it trained on.
    """
    names = {field.name for field in fields(settings)}
    given: dict[str, Any] = {name: one.value for name, one in choices.items() if name in names}
    if training and "iterations" in names:
        given["iterations"] = len(training.losses)
    if training and "epochs" in names:
        given["epochs"] = _epochs(settings, training, n_train)
    return replace(settings, **given)


def _epochs(settings: Any, training: Curve, n_train: int) -> int:
    """Return how many epochs were trained."""
    steps, epochs = len(training.losses), settings.epochs
    if epochs is None:  # it followed from the number of images
        an_epoch = -(-n_train // min(int(settings.batch_size), n_train))
        return max(1, steps // an_epoch)
    return max(1, round(int(epochs) * steps / (training.recipe_steps or steps)))


def need(good: bool, name: str, value: object, expected: str) -> None:
    """Raise a ConfigError that names the setting, the value and what was expected, unless ``good``."""
    if not good:
        raise ConfigError(f"{name} '{value}': expected {expected}.")


def need_whole(settings: Any, *names: str) -> None:
    """Raise a ConfigError unless these settings are whole numbers of at least 1, or None by default."""
    for name in names:
        value = getattr(settings, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        need(whole or _unset(settings, name), name, value, "a whole number of at least 1")


def need_positive(settings: Any, *names: str, zero: bool = False) -> None:
    """Raise a ConfigError unless these settings are finite and positive, or 0 where ``zero``, or None by default."""
    for name in names:
        value = getattr(settings, name)
        good = _unset(settings, name) or 0 < value < math.inf or (zero and value == 0)
        need(good, name, value, "0 or a positive number" if zero else "a positive number")


def need_share(settings: Any, *names: str) -> None:
    """Raise a ConfigError unless these settings are above 0 and at most 1."""
    for name in names:
        value = getattr(settings, name)
        need(0 < value <= 1, name, value, "a share above 0, up to 1")


def _unset(settings: Any, name: str) -> bool:
    """Return whether a setting is None, and was meant to be."""
    return getattr(settings, name) is None and getattr(type(settings), name) is None


def _need_known(name: str, known: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raise a ConfigError for a setting that the method does not have."""
    for key in given:
        if key not in known:
            expected = f"some of {', '.join(known)}" if known else "none"
            raise ConfigError(f"unknown option '{key}': expected {expected} (the options of {name}).")


def _choices(hint: Any) -> tuple[list[Any], bool]:
    """Return the types that a field takes, and whether it takes None."""
    parts = list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]
    return [part for part in parts if part is not type(None)], type(None) in parts


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the field's type, or raise a ConfigError."""
    (kind, *_), optional = _choices(hint)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None and optional:
        return None
    if get_origin(kind) is Literal:
        need(value in get_args(kind), name, value, f"one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        need(isinstance(parts, (list, tuple)), name, value, "a list")
        return tuple(part.strip() if isinstance(part, str) else part for part in parts)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = {
        bool: isinstance(value, bool),
        int: number and isinstance(value, int),
        float: number,
        str: isinstance(value, str),
    }[kind]
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    need(good, name, value, expected)
    return kind(value)


def _parsed(name: str, text: str, hint: Any) -> Any:
    """Return the value that a word means for a field, or raise a ConfigError."""
    (kind, *_), optional = _choices(hint)
    if optional and text.lower() == "none":
        return None
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return _checked(name, text, hint)
    return text
