"""ProLIP's projection against Adam and the loss written out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import classes_of, fit, make_task, train_pixels

from blocklora.classifier import FeatureStore
from blocklora.core.errors import ConfigError
from blocklora.methods import Job, find_method, make_settings
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.prolip import before_projection

NAME = "visual_projection.weight"


def test_features_before_the_projection_give_those_after_it(job: Job, tmp_path: Path) -> None:
    job = replace(job, store=FeatureStore(tmp_path))
    after = frozen_features(job, job.task.train)[0]
    state = torch.get_rng_state()
    before = frozen_features(before_projection(job), job.task.train)[0]  # another entry of the store
    assert torch.equal(torch.get_rng_state(), state)
    assert before.shape == (6, 32)
    weight = job.clip.model.visual_projection.weight
    assert weight.shape == (16, 32)  # the model itself is as it was
    torch.testing.assert_close(F.normalize(before @ weight.T, dim=1), after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shots", "given"), [(2, {}), (3, {}), (2, {"penalty": 0.0})])
def test_the_projection_is_trained_by_adam_and_kept_near_itself(
    job: Job, shots: int, given: dict[str, float]
) -> None:
    job = replace(job, task=make_task(job.clip, shots=shots))
    found = fit(job, "prolip", augment="none", passes=1, epochs=4, lr=1e-2, **given).classifier.image.weights
    pooled = job.clip.model.vision_model(pixel_values=train_pixels(job)).pooler_output.double()
    first = job.clip.model.visual_projection.weight.detach().double()
    weight, mean, square = first.clone(), torch.zeros(16, 32).double(), torch.zeros(16, 32).double()
    classes, penalty = job.written_classes.double(), given.get("penalty", 1 / shots)
    for step in range(1, 5):
        weight.requires_grad_(True)
        logits = job.scale * F.normalize(pooled @ weight.T, dim=1) @ classes.T
        own = logits.log_softmax(dim=1)[torch.arange(3 * shots), labels_of(job.task.train)]
        loss = -own.mean() + penalty * ((weight - first) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        lr = 1e-2 * (1 + np.cos(np.pi * (step - 1) / 4)) / 2
        moved = lr * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-4)
        weight = weight.detach() - moved
    torch.testing.assert_close(found[NAME].double(), weight, rtol=1e-3, atol=1e-5)
    assert (found[NAME] - first).abs().max() > 1e-3


def test_without_steps_that_move_it_is_zero_shot(job: Job) -> None:
    found = fit(job, "prolip", passes=1, epochs=1, lr=1e-30)
    torch.testing.assert_close(classes_of(found), classes_of(fit(job, "zero-shot")))
    assert torch.equal(found.classifier.image.weights[NAME], job.clip.model.visual_projection.weight)
    assert found.trainable_parameters == 16 * 32


def test_the_classifier_has_the_new_projection_and_the_model_the_old(job: Job) -> None:
    before = job.clip.model.visual_projection.weight.clone()
    found = fit(job, "prolip", augment="none", passes=1, epochs=3, lr=1e-2).classifier
    assert torch.equal(job.clip.model.visual_projection.weight, before)
    inputs = train_pixels(job)
    pooled = frozen_features(before_projection(job), job.task.train)[0]
    expected = F.normalize(pooled @ found.image.weights[NAME].T, dim=1)
    torch.testing.assert_close(found.image_features(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"penalty": -1.0}, {"epochs": 0}, {"passes": 0}])
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_settings("prolip", find_method("prolip").settings, wrong)
