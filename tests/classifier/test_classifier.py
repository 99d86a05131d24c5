"""The frozen classifier: what it predicts with, and that nothing changes it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from small_task import QUICK, fit, train_pixels

from blocklora.classifier import ImageChange, cosine_head
from blocklora.classifier import classifier as classifier_module
from blocklora.clip import image_features, prompted_image_features
from blocklora.methods import Job


def unit(rows: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def test_probabilities_are_the_formula(job: Job) -> None:
    classifier = job.classifier(unit(3)).with_temperature(2.5)
    features = unit(4, 1)
    logits = job.scale * features.double().numpy() @ unit(3).double().numpy().T / 2.5
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.probabilities(features), expected, rtol=1e-9)
    np.testing.assert_allclose(classifier.logits(features), 2.5 * logits)  # those are not divided yet
    assert classifier.probabilities(torch.empty(0, 0)).shape == (0, 3)


def test_answers_and_top_are_those_of_all_probabilities(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job.classifier(unit(3)).with_temperature(2.0)
    features, labels = unit(7, 1), np.array([0, 1, 2, 0, 1, 2, 0])
    probabilities = one.probabilities(features)
    for numbers in (1 << 24, 6, 1):  # all images at a time, two, one
        monkeypatch.setattr(classifier_module, "_NUMBERS", numbers)
        said = one.answers(features, labels, 2)
        np.testing.assert_allclose(said.of_truth, probabilities[np.arange(7), labels], rtol=1e-12)
        for top, shares in ((said.top, said.shares), one.top(features, 2)):
            np.testing.assert_array_equal(top, np.argsort(-probabilities, axis=1)[:, :2])
            np.testing.assert_allclose(shares, np.sort(probabilities, axis=1)[:, :0:-1], rtol=1e-12)
        plain = (features @ one.zero_shot_features.T).argmax(dim=1).tolist()
        assert one.zero_shot_labels(features).tolist() == plain


def test_few_images_have_all_their_probabilities_at_a_time_where_classes_are_many() -> None:
    at_once = classifier_module.images_judged_at_once
    assert at_once(100_000) * 100_000 * 8 < 140e6
    assert at_once(10**9) == 1
    assert at_once(1000) % 1024 == 0  # the rows of a head go together as before


def test_zero_shot_labels(job: Job) -> None:
    classifier = job.classifier(unit(3))
    features = torch.cat([job.written_classes[[2, 0]], job.written_classes[[1]]])
    assert classifier.zero_shot_labels(features).tolist() == [2, 0, 1]


@pytest.mark.parametrize("method", ["block-lora", "layer-norm", "maple"])
def test_adapted_and_zero_shot_features_side_by_side(job: Job, method: str) -> None:
    classifier = fit(job, method, **QUICK[method]).classifier
    values = train_pixels(job)
    assert not classifier.is_base
    plain = image_features(job.clip.model, values)
    torch.testing.assert_close(classifier.zero_shot_image_features(values), plain)
    first = classifier.image_features(values)
    assert not torch.allclose(first, plain, atol=1e-5)
    classifier.zero_shot_image_features(values)
    assert torch.equal(classifier.image_features(values), first)


def test_other_weights_and_prompts_of_the_image_tower(job: Job) -> None:
    name = "vision_model.post_layernorm.bias"
    values, model = train_pixels(job), job.clip.model
    weights = job.classifier(unit(3), image=ImageChange({name: torch.full((32,), 0.5)}))
    found = weights.image_features(values)
    vectors = 0.1 * torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    prompted = job.classifier(unit(3), image=ImageChange(prompts=vectors)).image_features(values)
    torch.testing.assert_close(prompted, prompted_image_features(model, values, vectors))
    dict(model.named_parameters())[name].data.fill_(0.5)
    torch.testing.assert_close(found, image_features(model, values))


def test_it_is_frozen_and_copies_share_its_towers(job: Job) -> None:
    classifier = fit(job, "block-lora", **QUICK["block-lora"]).classifier
    with pytest.raises(FrozenInstanceError):
        classifier.temperature = 2.0  # type: ignore[misc]
    warm = classifier.with_temperature(2.0)
    assert (classifier.temperature, warm.temperature) == (1.0, 2.0)
    assert warm.adapter is classifier.adapter
    other = classifier.of_other_classes(("x", "y"), ("a x", "a y"), cosine_head(unit(2), 1.0), unit(2, 1))
    assert other.class_names == ("x", "y")
    assert other.probabilities(unit(5)).shape == (5, 2)
    values = train_pixels(job)
    assert torch.equal(other.image_features(values), classifier.image_features(values))
    assert classifier.class_names == job.task.class_names


def test_engines_agree(job: Job) -> None:
    classifier = fit(job, "block-lora", **QUICK["block-lora"]).classifier
    values = train_pixels(job)
    plain = replace(classifier, engine="plain").image_features(values)
    lean = replace(classifier, engine="lean").image_features(values)
    torch.testing.assert_close(lean, plain, rtol=1e-4, atol=1e-5)
