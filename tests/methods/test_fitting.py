"""The one way to call a method: ensembles, temperature, time, and what the store spares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import QUICK, make_task

from blocklora.classifier import FeatureStore, encode
from blocklora.clip import Clip, class_features, tokenize
from blocklora.core.choices import Choice
from blocklora.methods import (
    Fit,
    FitConfig,
    Prepared,
    Task,
    fit_again,
    fit_classifier,
    fit_config,
    fitting,
)
from blocklora.methods.adapters.block_lora import BlockLoraSettings
from blocklora.methods.answers import CROSS_VALIDATED
from blocklora.methods.frozen.clip_adapter import ClipAdapterSettings
from blocklora.methods.prompts.coop import CoOpSettings
from blocklora.methods.settings import as_chosen
from blocklora.metrics import fit_temperature
from blocklora.training import Curve

TEMPLATES = ("a photo of a {}.", "art of the {}.")


def config_of(clip: Clip, method: str, **options: Any) -> FitConfig:
    return fit_config(model=clip.model_id, method=method, device="cpu", **options)


def fit(clip: Clip, task: Task, method: str, store: FeatureStore | None = None, **options: Any) -> Fit:
    more = {} if store is None else {"store": store}
    return fit_classifier(Prepared(clip, task, (), ()), config_of(clip, method, **options), **more)


def with_ensemble(clip: Clip, task: Task) -> Task:
    rows = [[template.format(name) for name in task.class_names] for template in TEMPLATES]
    return replace(
        task, ensemble=tuple(tokenize(row, clip.tokenizer, clip.context_length)[0] for row in rows)
    )


@pytest.mark.parametrize("method", ["zero-shot", "block-lora"])
def test_the_temperature_is_that_of_the_validation_images(clip: Clip, method: str) -> None:
    task = make_task(clip, n_val=3)
    options = {"iterations": 2, "lr": 1e-2} if method == "block-lora" else {}
    found = fit(clip, task, method, **options)
    images = [(example.image, example.source) for example in task.val]
    logits = found.classifier.logits(encode(found.classifier, images, found.compute).features)
    labels = np.array([example.label for example in task.val])
    assert found.classifier.temperature == pytest.approx(fit_temperature(logits.numpy(), labels))
    assert found.choices["temperature"] == Choice(found.classifier.temperature, "validation", n_images=9)


def test_with_many_classes_some_validation_images_set_it(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(clip, n_val=3)  # 9 images of 3 classes
    few = fit(clip, replace(task, val=task.val[::2]), "zero-shot")
    monkeypatch.setattr(fitting, "_MOST_LOGITS", 14)
    found = fit(clip, task, "zero-shot")
    assert found.classifier.temperature == few.classifier.temperature
    choice = found.choices["temperature"]
    assert (choice.n_images, choice.reason) == (
        5,
        "one of every 2 validation images, as the classes are many",
    )


def test_without_validation_images_the_temperature_is_1(clip: Clip) -> None:
    found = fit(clip, make_task(clip), "zero-shot")
    assert found.classifier.temperature == 1.0
    choice = found.choices["temperature"]
    assert (choice.value, choice.by) == (1.0, "fixed")
    assert "no validation images" in choice.reason
    assert found.choices.keys() == {"settings", "temperature"}
    assert any("not calibrated" in note for note in found.result.notes)


def test_held_out_training_images_set_the_temperature(clip: Clip) -> None:
    found = fit(clip, make_task(clip, shots=3), "linear-probe")
    held_out = found.result.held_out
    assert held_out is not None
    expected = fit_temperature(held_out.logits, held_out.labels)
    assert found.classifier.temperature == pytest.approx(expected)
    choice = found.choices["temperature"]
    assert (choice.by, choice.n_images, choice.reason) == ("validation", 9, CROSS_VALIDATED)
    assert not any("not calibrated" in note for note in found.result.notes)


@pytest.mark.parametrize(
    ("method", "options"),
    [("zero-shot", {}), ("tip-adapter", {"passes": 1}), ("layer-norm", {"iterations": 1, "lr": 1e-30})],
)
def test_an_ensemble_predicts_or_is_built_on(clip: Clip, method: str, options: dict[str, Any]) -> None:
    task = with_ensemble(clip, make_task(clip))
    each = [class_features(clip.model, tokens) for tokens in task.ensemble]
    mean = F.normalize(each[0] + each[1], dim=1)
    classifier = fit(clip, task, method, ensemble=TEMPLATES, **options).classifier
    torch.testing.assert_close(classifier.head.tensors["class_features"], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(classifier.zero_shot_features, mean)


def test_an_ensemble_is_read_by_the_adapted_text_tower(clip: Clip) -> None:
    task = with_ensemble(clip, make_task(clip))
    classifier = fit(clip, task, "block-lora", ensemble=TEMPLATES, iterations=3, lr=1e-2).classifier
    each = [class_features(classifier.adapter.get_base_model(), tokens) for tokens in task.ensemble]
    found = classifier.head.tensors["class_features"]
    torch.testing.assert_close(found, F.normalize(each[0] + each[1], dim=1), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, classifier.zero_shot_features, atol=1e-4)


def test_features_that_others_computed_count_as_time(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = FeatureStore.keep
    monkeypatch.setattr(
        FeatureStore, "keep", lambda store, facts, features, _: keep(store, facts, features, 1e3)
    )
    task, store = make_task(clip), FeatureStore(tmp_path)
    first, second = (fit(clip, task, "linear-probe", store) for _ in range(2))
    assert first.seconds < 1000 < second.seconds
    for name, tensor in first.classifier.head.tensors.items():
        assert torch.equal(second.classifier.head.tensors[name], tensor)


def test_images_at_once_follow_a_memory_limit(clip: Clip) -> None:
    task = make_task(clip)
    free = fit(clip, task, "block-lora", iterations=1)
    assert free.images_at_once == 64
    limited = fit(clip, task, "block-lora", iterations=1, memory_limit="8GB")
    assert limited.result.engine is not None
    assert limited.images_at_once == min(64, 3 * limited.result.engine.micro_batch)


def test_gradients_and_threads_are_as_before(clip: Clip) -> None:
    with torch.no_grad():
        found = fit(clip, make_task(clip), "block-lora", iterations=1)
        assert not torch.is_grad_enabled()
    assert found.result.training is not None


CHOOSE = (
    "gda",
    "proker",
    "prototypes",
    "linear-probe",
    "tip-adapter",
    "coop",
    "2sfs",
    "taskres",
    "block-lora",
)


@pytest.mark.parametrize("method", [*CHOOSE, "block-lora-gda", "auto"])
def test_fitting_again_to_the_same_images_gives_the_same_answers(clip: Clip, method: str) -> None:
    task = make_task(clip, shots=4)
    config = config_of(clip, method, **QUICK[method])
    prepared = Prepared(clip, task, (), ())
    first = fit_classifier(prepared, config)
    again = fit_again(first, prepared, config, task.train)
    features = encode(
        first.classifier, [(e.image, e.source) for e in task.train], first.compute, zero_shot=True
    )
    other = encode(again.classifier, [(e.image, e.source) for e in task.train], first.compute, zero_shot=True)
    said = [
        fit.classifier.probabilities(found.features) for fit, found in ((first, features), (again, other))
    ]
    np.testing.assert_allclose(said[1], said[0], atol=1e-5)
    assert again.classifier.temperature == first.classifier.temperature
    assert again.classifier.evidence.held_out is None
    assert again.classifier.evidence.training is not None


@pytest.mark.parametrize(
    ("method", "chosen"),
    [("gda", {"alpha"}), ("tip-adapter", {"alpha", "beta"}), ("proker", {"beta", "ridge"})],
)
def test_fitting_again_chooses_nothing_anew(clip: Clip, method: str, chosen: set[str]) -> None:
    task = make_task(clip, shots=4, n_val=3)
    config = config_of(clip, method, **QUICK[method])
    prepared = Prepared(clip, task, (), ())
    first = fit_classifier(prepared, config)
    again = fit_again(first, prepared, config, (*task.train, *task.val))
    for name in chosen:
        assert first.result.choices[name].by == "validation"
        assert again.result.choices[name].value == first.result.choices[name].value
        assert again.result.choices[name].reason == "given"
    names = again.classifier.evidence.training.names  # type: ignore[union-attr]
    assert len(names) == len(task.train) + len(task.val)


def test_the_number_of_steps_and_epochs_that_was_trained_is_kept(clip: Clip) -> None:
    curve = Curve(torch.zeros(6), torch.zeros(6), 1.0, recipe_steps=12)
    assert as_chosen(BlockLoraSettings(), {}, curve, 24).iterations == 6
    assert as_chosen(BlockLoraSettings(iterations=9), {}, None, 24).iterations == 9
    assert as_chosen(ClipAdapterSettings(epochs=10), {}, curve, 24).epochs == 5
    assert as_chosen(CoOpSettings(batch_size=16), {}, curve, 24).epochs == 3  # two steps an epoch
    assert (
        as_chosen(CoOpSettings(batch_size=16), {"kept step": Choice(2, "fixed", "x")}, curve, 24).epochs == 3
    )
