"""CLAP's baseline against its formula, in plain torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_task import classes_of, fit

from blocklora.methods import Job
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import class_embeddings, frozen_features


def test_it_starts_at_zero_shot(job: Job) -> None:
    fitted = fit(job, "zero-shot-probe", lr=1e-30, epochs=2, passes=1)
    torch.testing.assert_close(classes_of(fitted), job.written_classes, rtol=0, atol=1e-4)


def test_it_is_sgd_on_scaled_cosines(job: Job) -> None:
    job = replace(job, seed=7)
    given = {"lr": 0.1, "weight_decay": 5e-4, "epochs": 3, "passes": 2, "batch_size": 4, "augment": "none"}
    fitted = fit(job, "zero-shot-probe", **given)
    batches = training_batches(job, frozen_features(job, job.task.train, passes=2), 4, draw="mixed")
    prototypes, velocity = class_embeddings(job).double(), torch.zeros(3, 16, dtype=torch.float64)
    for step in range(6):
        inputs, labels = batches.batch(step)
        norms = prototypes.norm(dim=1, keepdim=True)
        units = prototypes / norms
        wrong = (job.scale * inputs.double() @ units.T).softmax(dim=1) - torch.eye(3)[labels]
        to_units = job.scale * wrong.T @ inputs.double() / len(labels)  # (N, D)
        gradient = (to_units - units * (to_units * units).sum(dim=1, keepdim=True)) / norms
        velocity = 0.9 * velocity + gradient + 5e-4 * prototypes
        epoch = step // 2
        lr = 1e-5 if epoch == 0 else 0.1 * (1 + np.cos(np.pi * (epoch - 1) / 3)) / 2
        prototypes = prototypes - lr * velocity
    expected = (prototypes / prototypes.norm(dim=1, keepdim=True)).float()
    torch.testing.assert_close(classes_of(fitted), expected, rtol=1e-4, atol=1e-5)
    assert fitted.training is not None
    assert [row["lr"] for row in fitted.training.history()] == pytest.approx(
        [1e-5, 1e-5, 0.1, 0.1, 0.075, 0.075]
    )
