from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, make_settings, parse_settings, settings_json, settings_type


@dataclass(frozen=True)
class Settings:
    epochs: int = 5
    lr: float = 0.1
    bias: bool = False
    words: str = "a photo of a"
    kind: Literal["x", "y"] = "x"
    limit: int | None = None
    layers: tuple[str, ...] = ("q",)


def method(task: Any, clip: Any, options: Settings, seed: int) -> None:
    del task, clip, options, seed


def test_the_annotation_is_the_settings() -> None:
    assert settings_type(method) is Settings
    assert make_settings("m", method, {}) == Settings()


def test_words_of_a_command_line_become_values() -> None:
    words = ["epochs=7", "lr=1e-3", "bias=true", "words=one = two", "kind=y", "limit=none", "layers=q, v"]
    made = make_settings("m", method, parse_settings("m", method, words))
    assert made == Settings(7, 1e-3, True, "one = two", "y", None, ("q", "v"))
    assert settings_json(made)["layers"] == ["q", "v"]
    assert make_settings("m", method, settings_json(made)) == made


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
        make_settings("m", method, parse_settings("m", method, [word]))


@pytest.mark.parametrize(
    "wrong", [{"epochs": True}, {"epochs": 1.0}, {"lr": "1"}, {"words": 3}, {"layers": 4}]
)
def test_wrong_values_name_themselves(wrong: dict[str, Any]) -> None:
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=re.escape(f"{name} '{value}': expected")):
        make_settings("m", method, wrong)


@given(st.integers(1, 10**6), st.floats(1e-9, 1e9))
def test_numbers_come_through(epochs: int, lr: float) -> None:
    parsed = parse_settings("m", method, [f"epochs={epochs}", f"lr={lr!r}"])
    assert make_settings("m", method, parsed) == Settings(epochs=epochs, lr=lr)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "peft"])  # that one needs a file
def test_every_method_has_settings_that_are_json(name: str) -> None:
    made = make_settings(name, METHODS[name], {})
    assert make_settings(name, METHODS[name], settings_json(made)) == made


def test_a_method_without_annotation_is_told_so() -> None:
    def mine(task, clip, options, seed, compute):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    with pytest.raises(ConfigError, match="method 'mine': expected 'options' annotated with the dataclass"):
        settings_type(mine)
