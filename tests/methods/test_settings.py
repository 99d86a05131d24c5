from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.methods import make_settings, parse_settings, settings_json


@dataclass(frozen=True)
class Settings:
    epochs: int = 5
    lr: float = 0.1
    bias: bool = False
    words: str = "a photo of a"
    kind: Literal["x", "y"] = "x"
    limit: int | None = None
    layers: tuple[str, ...] = ("q",)


def test_without_values_there_are_the_defaults() -> None:
    assert make_settings("m", Settings, {}) == Settings()


def test_words_of_a_command_line_become_values() -> None:
    words = ["epochs=7", "lr=1e-3", "bias=true", "words=one = two", "kind=y", "limit=none", "layers=q, v"]
    made = make_settings("m", Settings, parse_settings("m", Settings, words))
    assert made == Settings(7, 1e-3, True, "one = two", "y", None, ("q", "v"))
    assert settings_json(made)["layers"] == ["q", "v"]
    assert make_settings("m", Settings, settings_json(made)) == made


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs", "--set 'epochs': expected NAME=VALUE, for example epochs=50"),
        ("epoch=3", "unknown option 'epoch': expected some of epochs, lr, bias"),
        ("epochs=2.5", "epochs '2.5': expected a whole number"),
        ("epochs=many", "epochs 'many': expected a whole number"),
        ("lr=fast", "lr 'fast': expected a number"),
        ("bias=yes", "bias 'yes': expected true or false"),
        ("kind=z", "kind 'z': expected one of x, y"),
        ("epochs=none", "epochs 'none': expected a whole number"),
    ],
)
def test_wrong_words_name_themselves(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_settings("m", Settings, parse_settings("m", Settings, [word]))


@pytest.mark.parametrize(
    "wrong", [{"epochs": True}, {"epochs": 1.0}, {"lr": "1"}, {"words": 3}, {"layers": 4}]
)
def test_wrong_values_name_themselves(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=re.escape(f"{name} '{value}': expected")):
        make_settings("m", Settings, wrong)


@given(st.integers(1, 10**6), st.floats(1e-9, 1e9))
def test_numbers_come_through(epochs: int, lr: float) -> None:
    parsed = parse_settings("m", Settings, [f"epochs={epochs}", f"lr={lr!r}"])
    assert make_settings("m", Settings, parsed) == Settings(epochs=epochs, lr=lr)


@dataclass(frozen=True)
class NoSettings:
    pass


def test_a_method_without_settings_says_so() -> None:
    message = "unknown option 'lr': expected none (the options of zero-shot)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_settings("zero-shot", NoSettings, {"lr": 1.0})
