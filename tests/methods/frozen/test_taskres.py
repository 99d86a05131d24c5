"""TaskRes against its formula, in plain torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_task import classes_of, fit, make_task

from blocklora.clip import Clip
from blocklora.methods import Job
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import class_embeddings, frozen_features


@pytest.mark.parametrize("settings", [{"alpha": 0.0, "epochs": 3}, {"lr": 1e-30, "epochs": 1}])
def test_with_a_zero_residual_it_is_zero_shot(job: Job, settings: dict[str, float]) -> None:
    fitted = fit(job, "taskres", passes=1, **settings)
    torch.testing.assert_close(classes_of(fitted), job.written_classes, rtol=1e-4, atol=2e-5)


def test_it_is_adam_on_its_formula(job: Job) -> None:
    job = replace(job, seed=2)
    fitted = fit(job, "taskres", passes=1, augment="none", epochs=3, lr=0.1, batch_size=4)
    batches = training_batches(job, frozen_features(job, job.task.train), 4)
    base = class_embeddings(job).double()
    residual, first, second = (torch.zeros(3, 16).double() for _ in range(3))
    for step in range(6):
        inputs, labels = batches.batch(step)
        summed = base + 0.5 * residual
        norms = summed.norm(dim=1, keepdim=True)
        units = summed / norms
        wrong = ((job.scale * inputs.double() @ units.T).softmax(dim=1) - torch.eye(3)[labels]) / len(labels)
        to_units = job.scale * wrong.T @ inputs.double()
        gradient = 0.5 * (to_units - units * (to_units * units).sum(dim=1, keepdim=True)) / norms
        gradient = gradient + 5e-4 * residual
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        lr = 1e-5 if step < 2 else 0.1 * (1 + np.cos(np.pi * (step // 2 - 1) / 3)) / 2
        corrected = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        residual = residual - lr * (first / (1 - 0.9 ** (step + 1))) / corrected
    expected = base + 0.5 * residual
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(classes_of(fitted).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shots", "epochs"), [(1, 100), (5, 200)])
def test_epochs_follow_the_shots(clip: Clip, job: Job, shots: int, epochs: int) -> None:
    fitted = fit(replace(job, task=make_task(clip, shots)), "taskres", passes=1)
    assert fitted.training is not None
    assert len(fitted.training.losses) == epochs
    assert fitted.choices["kept step"].value == epochs
