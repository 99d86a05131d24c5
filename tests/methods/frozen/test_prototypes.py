"""Class prototypes against their formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_task import classes_of, fit, make_task

from blocklora.core.errors import ConfigError
from blocklora.methods import Job, find_method, make_settings
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.folds import folds
from blocklora.metrics import choose_candidate


def by_formula(x: np.ndarray, labels: np.ndarray, texts: np.ndarray, weight: float) -> np.ndarray:
    found = []
    for n, text in enumerate(texts):
        mean = x[labels == n].sum(axis=0)
        mixed = weight * mean / np.linalg.norm(mean) + (1 - weight) * text
        found.append(mixed / np.linalg.norm(mixed))
    return np.stack(found)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_class_features_are_the_mixture(job: Job, weight: float) -> None:
    x = frozen_features(job, job.task.train)[0].double().numpy()
    labels = labels_of(job.task.train).numpy()
    expected = by_formula(x, labels, job.written_classes.double().numpy(), weight)
    np.testing.assert_allclose(classes_of(fit(job, "prototypes", weight=weight)), expected, atol=1e-6)


def test_weight_0_is_zero_shot(job: Job) -> None:
    found = classes_of(fit(job, "prototypes", weight=0.0))
    torch.testing.assert_close(found, classes_of(fit(job, "zero-shot")))


def test_the_weight_is_cross_validated(job: Job) -> None:
    job = replace(job, task=make_task(job.clip, shots=3))
    x = frozen_features(job, job.task.train)[0].double().numpy()
    labels, texts = labels_of(job.task.train).numpy(), job.written_classes.double().numpy()
    weights = [i / 20 for i in range(21)]
    logits = np.zeros((21, 9, 3))
    for to, out in folds(torch.from_numpy(labels)):
        for number, weight in enumerate(weights):
            classes = by_formula(x[to.numpy()], labels[to.numpy()], texts, weight)
            logits[number, out.numpy()] = job.scale * x[out.numpy()] @ classes.T
    found = fit(job, "prototypes").choices["weight"]
    assert found.value == weights[choose_candidate(logits, labels).index]
    assert found.reason == "cross-validated on the training images"


def test_the_weight_by_validation_images_or_half(job: Job) -> None:
    found = fit(replace(job, task=make_task(job.clip, n_val=2)), "prototypes").choices["weight"]
    assert (found.by, found.n_images, found.candidates) == ("validation", 6, 21)
    found = fit(replace(job, task=make_task(job.clip, shots=1)), "prototypes").choices["weight"]
    assert (found.value, found.by) == (0.5, "fixed")


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_wrong_settings(weight: float) -> None:
    with pytest.raises(ConfigError, match=f"weight '{weight}': expected a number from 0 to 1"):
        make_settings("prototypes", find_method("prototypes").settings, {"weight": weight})
