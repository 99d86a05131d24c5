"""The names that are known without torch are those of the rooms that need it."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

import pytest
from command import start

from blocklora.cli import known
from blocklora.cli.options import FitOptions, TransferOptions
from blocklora.core.errors import ConfigError
from blocklora.data import ENSEMBLES, SamplingProtocol
from blocklora.methods import METHODS, AdapterSettings, fit_config
from blocklora.run.fit import fit_run
from blocklora.run.plan import KNOWN


def test_methods_and_their_settings() -> None:
    assert list(known.METHODS) == list(METHODS)
    for name, method in METHODS.items():
        assert set(known.METHODS[name]) == {field.name for field in fields(method.settings)}


def test_models() -> None:
    assert known.OPENAI == {name: hub for name, (hub, *_) in KNOWN.items()}


def test_choices() -> None:
    hints = get_type_hints(AdapterSettings)
    for name in ("parametrization", "towers", "engine", "prefix_sharing"):
        assert set(known.CHOICES[name]) == set(get_args(hints[name]))
    augment = next(part for part in get_args(hints["augment"]) if part is not type(None))
    assert set(known.CHOICES["augment"]) == set(get_args(augment))
    assert set(known.CHOICES["protocol"]) == set(get_args(SamplingProtocol))
    assert set(known.CHOICES["prompts"]) == set(ENSEMBLES)


def test_the_defaults_that_help_shows_are_block_loras() -> None:
    own = {field.name: field.default for field in fields(AdapterSettings)}
    hints = get_type_hints(FitOptions, include_extras=True)
    shown: dict[str, Any] = {name: hints[name].__metadata__[0].show_default for name in own if name in hints}
    words = {
        "lr": "0.0002, for tiny 0.004",
        "iterations": "500 a shot",
        "augment": "crop-flip",
        "memory_limit": "what is free",
        "cached_views": "new crops in every step",
    }
    for name, text in shown.items():
        value = own[name]
        expected = ",".join(value) if isinstance(value, tuple) else str(value)
        assert text == words.get(name, expected), name


def test_every_option_is_an_argument_of_fit_run() -> None:
    other = {"set_", "as_json", "verbose", "debug", "to"} | {
        name for row in known.METHODS.values() for name in row
    }
    common = set(fit_config.__annotations__)
    names = {field.name for field in fields(TransferOptions)}
    assert names - other - common <= fit_run.__annotations__.keys()
    assert [field.name for field in fields(FitOptions) if field.default is MISSING] == ["data"]


def test_a_wrong_word_is_found_without_torch() -> None:
    code = (
        "import runpy, sys; sys.argv = ['blocklora', 'fit', 'digits', '--method', 'coopp']\n"
        "try: runpy.run_module('blocklora', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (1, "False")
    assert "did you mean 'coop'?" in done.stderr
    assert start("fit", "-h").returncode == 0


@pytest.mark.parametrize(
    "model", ["openai/clip-vit-base-patch16", "laion/CLIP-ViT-B-32", "me/tiny", "tiny", "gpt2"]
)
def test_a_model_of_the_hub_is_not_guessed_at(model: str) -> None:
    known.check_model(model)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("lp", [], r"method 'lp': expected one of block-lora, .* promptsrc; did you mean 'lp\+\+'\?$"),
        ("magic", [], r"promptsrc\.$"),
        ("zero-shot", ["lr"], r"unknown option 'lr': expected none \(the options of zero-shot\)\.$"),
    ],
)
def test_wrong_words(method: str, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known.check_method(method, settings)
