"""Tip-Adapter-F against its formula, in plain torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from small_task import fit, make_task

from blocklora.clip import Clip
from blocklora.core.choices import Choice
from blocklora.methods import Job
from blocklora.methods.frozen.features import frozen_features, labels_of


def test_without_training_it_is_tip_adapter(job: Job) -> None:
    plain = fit(job, "tip-adapter", passes=2, alpha=1.17, beta=1.0).classifier.head
    trained = fit(job, "tip-adapter-f", passes=2, lr=1e-30, weight_decay=0.0, epochs=1).classifier.head
    torch.testing.assert_close(trained.tensors["keys"], plain.tensors["keys"])
    assert trained.numbers == plain.numbers


def test_keys_are_trained_by_adamw(job: Job) -> None:
    fitted = fit(job, "tip-adapter-f", passes=1, augment="none", epochs=2, lr=1e-2)
    assert fitted.trainable_parameters == 6 * 16
    features, labels = frozen_features(job, job.task.train)[0].double(), labels_of(job.task.train)
    classes = job.written_classes.double()
    keys, first, second = features.clone(), torch.zeros(6, 16).double(), torch.zeros(6, 16).double()
    values = torch.eye(3).double()[labels]
    for step in range(1, 3):
        cached = torch.exp(1.0 * (features @ keys.T - 1))  # (M, K)
        logits = job.scale * features @ classes.T + 1.17 * cached @ values
        wrong = (logits.softmax(dim=1) - torch.eye(3)[labels]) / len(labels)  # (M, N)
        gradient = (1.17 * (wrong @ values.T) * cached).T @ features  # (K, D)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        lr = 1e-2 * (1 + np.cos(np.pi * (step - 1) / 2)) / 2
        keys = keys * (1 - lr * 1e-2)
        keys = keys - lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-4)
    found = fitted.classifier.head.tensors["keys"].double()
    torch.testing.assert_close(found, keys, rtol=1e-4, atol=1e-5)


def test_only_validation_images_choose(clip: Clip, job: Job) -> None:
    chosen = fit(replace(job, task=make_task(clip, n_val=2)), "tip-adapter-f", passes=1, epochs=3).choices
    kept = chosen["kept step"]
    assert (kept.by, kept.n_images, kept.candidates) == ("validation", 6, 3)
    for name in ("alpha", "beta"):
        assert (chosen[name].by, chosen[name].n_images, chosen[name].candidates) == ("validation", 6, 4000)
    fixed = fit(job, "tip-adapter-f", passes=1, epochs=3).choices
    assert (fixed["kept step"].by, fixed["kept step"].value) == ("fixed", 3)
    assert fixed["alpha"] == Choice(1.17, "fixed", "given")
    assert fixed["beta"] == Choice(1.0, "fixed", "given")
