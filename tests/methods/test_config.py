"""A fit's configuration is checked before anything is opened."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from blocklora.core.errors import ConfigError
from blocklora.methods import DEFAULT_MODEL, DEFAULT_PROMPT, AdapterSettings, fit_config


def test_defaults() -> None:
    config = fit_config(device="cpu")
    assert (config.method, config.model, config.prompt) == ("block-lora", DEFAULT_MODEL, DEFAULT_PROMPT)
    assert isinstance(config.settings, AdapterSettings)
    assert (config.shots, config.seed, config.ensemble, config.revision) == (None, 0, (), None)
    assert (config.device, config.precision) == (torch.device("cpu"), "fp32")


def test_what_is_written_gives_the_same_again() -> None:
    config = fit_config(
        method="coop",
        model="tiny",
        revision="main",
        shots=4,
        seed=3,
        device="cpu",
        deterministic=True,
        lr=0.1,
    )
    written = json.loads(json.dumps(config.to_json()))
    assert written["lr"] == 0.1
    assert written["epochs"] is None
    again = fit_config(**written)
    assert config.given == {"lr"}
    assert replace(again, given=config.given) == config


def test_values_that_have_defaults_are_not_written() -> None:
    written = fit_config(method="zero-shot", device="cpu").to_json()
    assert not {"revision", "deterministic"} & written.keys()


@pytest.mark.parametrize("shots", [1, np.int64(4), None])
def test_shots(shots: Any) -> None:
    found = fit_config(shots=shots, device="cpu").shots
    assert found == shots
    assert found is None or type(found) is int


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "magic"}, "method 'magic': expected one of block-lora, block-lora-gda, auto, clip-lora"),
        ({"shots": 0}, "shots '0': expected a whole number of at least 1, or None for all images"),
        ({"shots": 1.5}, "shots '1.5'"),
        ({"shots": True}, "shots 'True'"),
        ({"seed": -1}, "seed '-1': expected a whole number from 0"),
        ({"epochs": 3}, "unknown option 'epochs': expected some of iterations, batch_size"),
        ({"lr": "fast"}, "lr 'fast': expected a number"),
        ({"device": "gpu"}, "gpu"),
        ({"precision": "fp8"}, "fp8"),
        (
            {"method": "coop", "ensemble": ("a {}", "the {}")},
            "an ensemble of prompts needs a method that reads prompts as they are, not coop: expected one of",
        ),
    ],
)
def test_wrong_values_name_themselves(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        fit_config(**({"device": "cpu"} | wrong))
