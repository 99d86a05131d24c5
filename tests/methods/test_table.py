"""What holds of every method: its settings, the same bits again, 16 bits, and a model that stays as it was."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from small_task import CPU, QUICK, fit, train_pixels

from blocklora.classifier import Classifier
from blocklora.core.deadline import Deadline
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, FitResult, Job, find_method, make_settings, settings_json
from blocklora.training import Checkpoint

OPEN = {
    "zero-shot", "block-lora", "clip-lora", "peft", "clip-adapter", "layer-norm", "full", "2sfs", "coop", "kgcoop",
    "prograd", "cocoop", "maple", "promptsrc", "prolip",
}  # fmt: skip
PROMPT_LEARNERS = {"coop", "kgcoop", "prograd", "cocoop", "maple", "promptsrc"}
LONG = {
    "layer-norm": {"iterations": 6, "lr": 1e-2},
    "2sfs": {"iterations": 6, "lr": 1e-2},
    "full": {"iterations": 6, "lr": 1e-3},
    "block-lora": {"iterations": 6, "lr": 1e-2},
    "coop": {"epochs": 6, "lr": 0.1},
    "kgcoop": {"epochs": 6, "lr": 0.1},
    "prograd": {"epochs": 6, "lr": 0.1},
    "cocoop": {"epochs": 6, "lr": 0.1, "batch_size": 6},
    "maple": {"epochs": 3, "lr": 0.1},
    "promptsrc": {"epochs": 3, "lr": 0.1},
}
"""The methods whose training can be resumed, with six steps each."""
SHARED_TIME = {"block-lora-gda"}
"""Methods that train several times, each time with a share of the time limit."""


def tensors_of(classifier: Classifier) -> dict[str, torch.Tensor]:
    """Return all that was learned, by name."""
    parts = {"head": classifier.head.all_tensors, "image": classifier.image.tensors()}
    if classifier.text:
        parts["text"] = classifier.text.tensors()
    if classifier.adapter:
        parts["adapter"] = dict(classifier.adapter.named_parameters())
    return {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}


def assert_same(one: FitResult, other: FitResult) -> None:
    first, second = tensors_of(one.classifier), tensors_of(other.classifier)
    assert first.keys() == second.keys()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def test_what_the_table_says() -> None:
    assert {name for name, method in METHODS.items() if method.open} == OPEN
    assert {name for name, method in METHODS.items() if method.families} == PROMPT_LEARNERS | {"prolip"}
    assert set(QUICK) == set(METHODS)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match=r"method 'tip-adaptor': expected one of block-lora, .*tip-adapter"):
        find_method("tip-adaptor")


@pytest.mark.parametrize("name", [name for name in METHODS if name != "peft"])  # that one needs a file
def test_every_method_has_settings_that_are_json(name: str) -> None:
    made = make_settings(name, METHODS[name].settings, {})
    assert make_settings(name, METHODS[name].settings, settings_json(made)) == made


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("name", METHODS)
def test_every_method_repeats_and_leaves_the_model_alone(job: Job, name: str) -> None:
    before = {key: value.clone() for key, value in job.clip.model.state_dict().items()}
    one = fit(job, name, **QUICK[name])
    assert_same(fit(job, name, **QUICK[name]), one)
    after = job.clip.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in job.clip.model.parameters())
    assert {"kept step", "settings", "C", "alpha, beta"} & one.choices.keys()
    probabilities = one.classifier.probabilities(one.classifier.image_features(train_pixels(job)))
    assert probabilities.shape == (6, 3)
    assert probabilities.sum(axis=1) == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop_at: int
) -> None:
    loop = importlib.import_module("blocklora.training.minimise")  # as an attribute that name is the function
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_SHOW_SECONDS", 0.0)

    def stop(step: int, total: int, loss: float, lr: float) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    job = replace(job, seed=1)
    kept = replace(job, checkpoint=Checkpoint(tmp_path / "state", "this run"))
    with pytest.raises(KeyboardInterrupt):
        fit(replace(kept, on_step=stop), name, **LONG[name])
    whole, resumed = fit(job, name, **LONG[name]), fit(kept, name, **LONG[name])
    assert_same(resumed, whole)
    assert whole.training is not None
    assert resumed.training is not None
    assert torch.equal(resumed.training.losses, whole.training.losses)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize(
    "name",
    [name for name in METHODS if {"iterations", "epochs"} & QUICK[name].keys() and name not in SHARED_TIME],
)
def test_a_time_limit_leads_to_the_bits_of_as_many_steps(
    job: Job, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Steps are said to take 10 s; 95 s are left."""
    for room in ("methods.method", "training.loop"):
        monkeypatch.setattr(importlib.import_module(f"blocklora.{room}"), "seconds_a_step", lambda *_: 10.0)
    what = "iterations" if "iterations" in QUICK[name] else "epochs"
    settings = QUICK[name] | {what: 50}
    if "batch_size" in {field.name for field in fields(METHODS[name].settings)}:
        settings["batch_size"] = 3  # of 6 images: two steps an epoch
    cut = fit(replace(job, deadline=Deadline(100.5)), name, **settings)
    assert cut.training is not None
    number = len(cut.training.losses)
    assert 0 < number < 10
    recipe, asked = (50, number) if number == 9 else (100, number // 2)
    assert cut.training.recipe_steps == recipe
    plain = fit(job, name, **settings | {what: asked})
    assert_same(cut, plain)
    assert plain.training is not None
    assert plain.training.recipe_steps is None
    assert torch.equal(cut.training.losses, plain.training.losses)
    assert cut.choices == plain.choices


@pytest.mark.parametrize("name", LONG)
def test_training_in_16_bits_is_near_that_in_32(job: Job, name: str) -> None:
    settings = LONG[name] | ({"augment": "none"} if name in PROMPT_LEARNERS else {})
    found = []
    for precision in ("fp32", "bf16"):
        fitted = fit(replace(job, compute=Compute(CPU, precision)), name, **settings)
        assert fitted.training is not None
        assert fitted.classifier.precision == precision
        assert all(value.isfinite().all() for value in tensors_of(fitted.classifier).values())
        found.append(fitted.training.losses)
    assert abs(found[0] - found[1])[:1].max() < 0.02 * found[0].max()  # before the first step that moves much


@pytest.mark.parametrize("name", METHODS)
def test_values_that_cannot_work_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"the options of {name}")):
        make_settings(name, METHODS[name].settings, {"no_such_option": 1})
