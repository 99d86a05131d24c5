"""What a classifier keeps of images comes back from disk, makes sets of classes, and is missed by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_task import CPU, QUICK, make_task

from blocklora.classifier import (
    Classifier,
    Evidence,
    chance_known,
    class_sets,
    explain,
    heat_maps,
    known_images,
    nearest_images,
    proven_coverage,
    read_classifier,
    why_no_heat_map,
    write_classifier,
)
from blocklora.classifier.explain import _directions
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.methods import Prepared, fit_classifier, fit_config
from blocklora.metrics import CalibrationPart, prediction_sets, strangeness


def fitted(clip: Clip, method: str = "linear-probe", shots: int = 6, n_val: int = 0) -> Classifier:
    prepared = Prepared(clip, make_task(clip, shots, n_val), (), ())
    config = fit_config(method=method, model=clip.model_id, device="cpu", precision="fp32", **QUICK[method])
    return fit_classifier(prepared, config).classifier


def test_cross_validation_keeps_the_head_of_each_fold(clip: Clip) -> None:
    classifier = fitted(clip)
    held_out = classifier.evidence.held_out
    assert held_out is not None
    assert (held_out.how, len(held_out.heads), len(held_out.labels)) == ("folds", 5, 18)
    training = classifier.evidence.training
    assert training is not None
    features = training.features.float()
    for k, head in enumerate(held_out.heads):
        own = held_out.fold == k
        again = strangeness(head.logits(features[own]).numpy())[np.arange(own.sum()), held_out.labels[own]]
        np.testing.assert_allclose(held_out.strangeness["lac"][own], again, atol=0.05)  # of half precision
    parts = [
        CalibrationPart(
            strangeness(head.logits(features).numpy()),
            held_out.strangeness["lac"][held_out.fold == k],
            held_out.labels[held_out.fold == k],
        )
        for k, head in enumerate(held_out.heads)
    ]
    np.testing.assert_array_equal(class_sets(classifier, features, 0.8), prediction_sets(parts, 0.8))
    assert proven_coverage(held_out, 0.9) == pytest.approx(0.8 - (1 - 5 / 18) / 6)
    assert proven_coverage(held_out, 0.95) is None


@pytest.mark.parametrize(
    ("method", "n_val", "how", "proven"),
    [
        ("prototypes", 0, "folds", True),
        ("gda", 0, "folds", True),
        ("proker", 0, "leave-one-out", False),
        ("block-lora", 4, "validation", True),
    ],
)
def test_how_images_are_held_out(clip: Clip, method: str, n_val: int, how: str, proven: bool) -> None:
    held_out = fitted(clip, method, n_val=n_val).evidence.held_out
    assert held_out is not None
    assert held_out.how == how
    assert (proven_coverage(held_out, 0.9) is not None) == proven


def test_it_comes_back_from_disk(clip: Clip, tmp_path: Path) -> None:
    classifier = fitted(clip)
    write_classifier(tmp_path, classifier, [*"rgb"], {}, {})
    again, _ = read_classifier(tmp_path)
    assert again.evidence.training is not None
    assert classifier.evidence.training is not None
    assert again.evidence.training.names == classifier.evidence.training.names
    assert torch.equal(again.evidence.training.features, classifier.evidence.training.features)
    features = classifier.evidence.training.features.float()
    for score in ("lac", "aps", "raps"):
        sets: list[Any] = [class_sets(one, features, 0.8, score=score) for one in (classifier, again)]
        np.testing.assert_array_equal(*sets)
    write_classifier(tmp_path, replace(classifier, evidence=Evidence()), [*"rgb"], {}, {})
    assert not (tmp_path / "evidence.safetensors").exists()


def test_what_is_missing_is_named(clip: Clip, tmp_path: Path) -> None:
    classifier = fitted(clip, "block-lora")
    features = torch.zeros(1, 16)
    with pytest.raises(RunError, match="fit it again with validation images"):
        class_sets(classifier, features)
    classifier = fitted(clip)
    with pytest.raises(ConfigError, match="coverage 90"):
        class_sets(classifier, features, 90)
    write_classifier(tmp_path, classifier, [*"rgb"], {}, {})
    path = tmp_path / "evidence.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"evidence\.safetensors: this file cannot be used .*; fit it again"):
        read_classifier(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"evidence\.safetensors: this file cannot be used"):
        read_classifier(tmp_path)


@pytest.mark.parametrize("method", ["linear-probe", "proker"])
def test_an_image_that_was_left_out_does_not_know_itself(clip: Clip, method: str) -> None:
    classifier = fitted(clip, method)
    held_out, training = classifier.evidence.held_out, classifier.evidence.training
    assert held_out is not None
    assert training is not None
    cosines = (training.features.float() @ training.features.float().T).numpy()
    fold = held_out.fold if method == "linear-probe" else np.arange(18)
    slow = [max(cosines[i, j] for j in range(18) if fold[i] != fold[j]) for i in range(18)]
    np.testing.assert_allclose(-held_out.unlikeness["nearest"], slow, atol=1e-3)


def test_the_images_of_the_training_are_known_and_noise_is_not(clip: Clip, tmp_path: Path) -> None:
    classifier = fitted(clip, shots=12)
    write_classifier(tmp_path, classifier, [*"rgb"], {}, {})
    again, _ = read_classifier(tmp_path)
    assert again.evidence.unknown == classifier.evidence.unknown
    training = known_images(again)
    features = training.features.float()
    places, cosines = nearest_images(again, features, 3)
    assert places[:, 0].tolist() == list(range(36))
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-3)
    assert (np.diff(cosines, axis=1) <= 0).all()
    chances = chance_known(again, torch.cat([features, -features]))
    assert np.median(chances[:36]) > 0.3
    assert np.median(chances[36:]) < 0.1
    assert chance_known(again, features[:0]).shape == (0,)
    with pytest.raises(RunError, match="keeps no features of its training images"):
        nearest_images(replace(again, evidence=Evidence()), features, 1)


@pytest.mark.parametrize("method", ["linear-probe", "block-lora", "tip-adapter", "cocoop", "maple"])
def test_an_answer_is_explained(clip: Clip, method: str) -> None:
    classifier = fitted(clip, method, shots=3)
    values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = classifier.image_features(values)
    found = explain(classifier, features)
    logits = (classifier.logits(features) / classifier.temperature).numpy()
    for one, row in zip(found, logits, strict=True):
        assert one.evidence[0] == (row.argmax(), pytest.approx(row.max() - row.mean()))
        assert [cosine for *_, cosine in one.nearest] == sorted((c for *_, c in one.nearest), reverse=True)
    if why := why_no_heat_map(classifier):
        assert (method, "learned vectors" in why) == ("maple", True)
        return
    maps = heat_maps(classifier, values, logits.argmax(axis=1), Compute(CPU, "fp32"))
    assert maps.shape == (4, 2, 2)
    np.testing.assert_allclose(np.abs(maps).max(axis=(1, 2)), 1)


def test_the_slope_of_a_linear_head_is_its_weights(clip: Clip) -> None:
    classifier = fitted(clip)
    weight = classifier.head.tensors["weight"]
    found = _directions(classifier, torch.randn(2, 16), np.array([0, 2]))
    torch.testing.assert_close(found, weight[[0, 2]] - weight.mean(dim=0), rtol=1e-4, atol=1e-4)


def test_other_classes_know_no_images(clip: Clip) -> None:
    classifier = fitted(clip)
    other = classifier.of_other_classes(
        ["a"], ["a photo of a"], classifier.head, classifier.zero_shot_features[:1]
    )
    assert not other.evidence
    assert Compute(CPU, "fp32").device == other.device
