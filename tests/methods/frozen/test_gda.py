"""Gaussian discriminant analysis against the formula in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import fit, make_task

from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError
from blocklora.methods import Job, find_method, make_settings
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.frozen.folds import folds
from blocklora.methods.frozen.gda import discriminant
from blocklora.metrics import choose_candidate


def by_formula(x: np.ndarray, labels: np.ndarray, n_classes: int, inputs: np.ndarray) -> np.ndarray:
    """Return f . P mu - mu . P mu / 2 with the pseudo-inverse of the formula, class by class."""
    m, d = x.shape
    means = [x[labels == n].mean(axis=0) for n in range(n_classes)]
    centred = np.concatenate([x[labels == n] - means[n] for n in range(n_classes)])
    covariance = np.cov(centred.T)  # over m - 1
    precision = d * np.linalg.pinv((m - 1) * covariance + np.trace(covariance) * np.eye(d))
    return np.stack([inputs @ precision @ mean - mean @ precision @ mean / 2 for mean in means], axis=1)


@pytest.mark.parametrize("shots", [[2, 2, 2], [5, 1, 9], [30, 30, 30]])
def test_the_discriminant_is_that_of_the_formula(shots: list[int]) -> None:
    draw = torch.Generator().manual_seed(len(shots) + shots[0])
    labels = torch.tensor([label for label, n in enumerate(shots) for _ in range(n)])
    features = F.normalize(torch.randn(len(labels), 12, generator=draw).double() + labels[:, None], dim=1)
    inputs = F.normalize(torch.randn(7, 12, generator=draw).double(), dim=1)
    weight, bias = discriminant(features, labels, 3)
    expected = by_formula(features.numpy(), labels.numpy(), 3, inputs.numpy())
    np.testing.assert_allclose((inputs @ weight.T + bias).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_with_one_image_in_every_class_distances_count_alike_in_all_directions() -> None:
    draw = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(4, 6, generator=draw).double(), dim=1)
    weight, bias = discriminant(features, torch.arange(4), 4)
    x = features.numpy()
    trace = np.trace(np.cov(x.T))
    covariance = trace / 6 * np.eye(6)
    precision = 6 * np.linalg.inv(3 * covariance + trace * np.eye(6))
    np.testing.assert_allclose(weight.numpy(), x @ precision, rtol=1e-12)
    np.testing.assert_allclose(bias.numpy(), -np.diag(x @ precision @ x.T) / 2, rtol=1e-12)
    same = features[:1].repeat(4, 1)
    assert not any(part.any() for part in discriminant(same, torch.arange(4), 4))


def test_the_head_adds_it_to_zero_shot(job: Job) -> None:
    features = frozen_features(job, job.task.train)[0].double()
    weight, bias = discriminant(features, labels_of(job.task.train), 3)
    zero_shot = job.scale * features @ job.written_classes.double().T
    found = fit(job, "gda", alpha=0.3)
    torch.testing.assert_close(
        found.classifier.logits(features),
        zero_shot + 0.3 * (features @ weight.T + bias),
        rtol=1e-5,
        atol=1e-5,
    )
    assert found.trainable_parameters == 0
    assert found.choices["alpha"] == Choice(0.3, "fixed", "given")


def test_alpha_0_is_zero_shot(job: Job) -> None:
    features = frozen_features(job, job.task.train)[0].double()
    found = fit(job, "gda", alpha=0.0).classifier.logits(features)
    expected = job.scale * features @ job.written_classes.double().T
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


def test_alpha_is_cross_validated_with_everything_fitted_anew(job: Job) -> None:
    job = replace(job, task=make_task(job.clip, shots=4))
    x = frozen_features(job, job.task.train)[0].double().numpy()
    labels = labels_of(job.task.train)
    zero_shot = job.scale * x @ job.written_classes.double().numpy().T
    alphas = [10 ** (i / 2) for i in range(-8, 5)]
    logits = np.zeros((len(alphas), 12, 3))
    for to, out in folds(labels):
        images = by_formula(x[to.numpy()], labels[to].numpy(), 3, x[out.numpy()])
        for number, alpha in enumerate(alphas):
            logits[number, out.numpy()] = zero_shot[out.numpy()] + alpha * images
    best = choose_candidate(logits, labels.numpy())
    found = fit(job, "gda")
    choice = found.choices["alpha"]
    assert choice.value == pytest.approx(alphas[best.index])
    assert (choice.reason, choice.score) == ("cross-validated on the training images", best.accuracy)
    assert found.held_out is not None
    np.testing.assert_allclose(found.held_out.logits, logits[best.index], rtol=1e-6, atol=1e-6)


def test_alpha_by_validation_images_or_small(job: Job) -> None:
    task = make_task(job.clip, n_val=2)
    found = fit(replace(job, task=task), "gda").choices["alpha"]
    assert (found.by, found.n_images, found.candidates) == ("validation", 6, 13)
    found = fit(replace(job, task=make_task(job.clip, shots=1)), "gda").choices["alpha"]
    assert (found.value, found.by) == (0.01, "fixed")


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"alpha '-1\.0': expected 0 or a positive number"):
        make_settings("gda", find_method("gda").settings, {"alpha": -1.0})
