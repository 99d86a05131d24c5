"""LP++ against its formula, in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import fit

from blocklora.methods import Job
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.lp_plus_plus import start, step_sizes


def test_step_sizes_are_its_bounds() -> None:
    features = F.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    classes = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(2)), dim=-1)
    weight_lr, alpha_lr = step_sizes(features, classes)
    f, t = features.double().numpy(), classes.double().numpy()
    largest = max(np.linalg.eigvals(f.T @ f).real)
    assert weight_lr == pytest.approx(4 * 20 / largest)
    assert alpha_lr == pytest.approx(20 / (4 * max(sum((x @ t[n]) ** 2 for x in f) for n in range(4))))


def test_start() -> None:
    features, classes = torch.eye(4)[[0, 1, 2, 2]], torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.5, 0]])
    weight, alpha = start(features, torch.tensor([0, 0, 1, 1]), classes, 250.0)
    assert weight.tolist() == [[1, 1, 0, 0], [0, 0, 2, 0]]
    assert alpha.tolist() == [250 * 0.5] * 2  # the class means are (1 + 0) / 2 and (0.5 + 0.5) / 2


def test_it_is_its_formula(job: Job) -> None:
    given = {"augment": "none", "epochs": 7, "alpha_every": 3, "alpha_scale": 2.0}
    fitted = fit(job, "lp++", **given)
    assert fitted.trainable_parameters == 3 * 16 + 3
    f = frozen_features(job, job.task.train)[0].double().numpy()
    labels, t = labels_of(job.task.train).numpy(), job.written_classes.double().numpy()
    hot = np.eye(3)[labels]
    weight = np.stack([f[labels == n].sum(axis=0) for n in range(3)])
    alpha = np.full(3, 2.0 * np.mean([np.mean(f[labels == n] @ t[n]) for n in range(3)]))
    weight_lr = 4 * 6 / np.linalg.eigvalsh(f.T @ f)[-1]
    alpha_lr = 6 / (4 * ((f @ t.T) ** 2).sum(axis=0).max())
    velocity = np.zeros_like(weight)
    for epoch in range(1, 8):
        logits = f @ weight.T + alpha * (f @ t.T)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        wrong = (probabilities - hot) / 6
        velocity = 0.9 * velocity + wrong.T @ f
        weight = weight - weight_lr * velocity
        if epoch % 3 == 0:
            alpha = alpha - alpha_lr * (wrong * (f @ t.T)).sum(axis=0)
    head = fitted.classifier.head
    np.testing.assert_allclose(head.tensors["weight"], weight + alpha[:, None] * t, rtol=1e-3, atol=1e-4)
    assert not head.tensors["bias"].any()
    rates = fitted.choices["learning rates"]
    assert rates.value == pytest.approx((weight_lr, alpha_lr))
    assert (rates.by, rates.reason) == ("fixed", "derived from the training features")
