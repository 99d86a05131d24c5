"""CLIP-Adapter against its formula, in plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_task import classes_of, fit, make_task

from blocklora.clip import Clip
from blocklora.methods import Job
from blocklora.methods.frozen.features import frozen_features, labels_of


def test_with_ratio_0_it_is_zero_shot(job: Job) -> None:
    head = fit(job, "clip-adapter", ratio=0.0, epochs=2, passes=1).classifier.head
    features = frozen_features(job, job.task.train)[0]
    expected = job.scale * features.double() @ classes_of(fit(job, "zero-shot")).double().T
    torch.testing.assert_close(head.logits(features), expected, rtol=1e-6, atol=1e-6)


def test_it_descends_its_formula(job: Job) -> None:
    given = {"passes": 1, "augment": "none", "reduction": 2, "batch_size": 99}
    before = fit(job, "clip-adapter", lr=1e-30, epochs=1, **given).classifier.head
    after = fit(job, "clip-adapter", lr=0.5, epochs=2, **given)
    assert after.trainable_parameters == 2 * 16 * 8
    features = frozen_features(job, job.task.train)[0].double().numpy()
    labels, classes = labels_of(job.task.train).numpy(), classes_of(after).double().numpy()

    def loss(flat: np.ndarray) -> float:
        down, up = flat[:128].reshape(8, 16), flat[128:].reshape(16, 8)
        mixed = 0.2 * np.maximum(np.maximum(features @ down.T, 0) @ up.T, 0) + 0.8 * features
        logits = job.scale * mixed / np.linalg.norm(mixed, axis=1, keepdims=True) @ classes.T
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]))

    flat = np.concatenate([before.tensors[name].double().numpy().ravel() for name in ("down", "up")])
    for lr in (1e-5, 0.5):  # CoOp's schedule: one warm-up epoch, then the cosine from its start
        gradient = np.array(
            [(loss(flat + 1e-6 * axis) - loss(flat - 1e-6 * axis)) / 2e-6 for axis in np.eye(len(flat))]
        )
        flat = flat - lr * gradient
    tensors = after.classifier.head.tensors
    ours = np.concatenate([tensors[name].double().numpy().ravel() for name in ("down", "up")])
    np.testing.assert_allclose(ours, flat, atol=2e-5)


@pytest.mark.parametrize("method", ["clip-adapter", "lp++"])
def test_the_epoch_is_chosen_on_validation_images(clip: Clip, job: Job, method: str) -> None:
    chosen = fit(replace(job, task=make_task(clip, n_val=2)), method, passes=1, epochs=5)
    kept = chosen.choices["kept step"]
    assert (kept.by, kept.n_images, kept.candidates) == ("validation", 6, 5)
    without = fit(job, method, passes=1, epochs=5).choices["kept step"]
    assert (without.by, without.value) == ("fixed", 5)
