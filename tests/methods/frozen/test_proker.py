"""Kernel ridge regression against the formula, and its leave-one-out predictions against leaving out."""

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
from blocklora.methods.frozen.proker import KernelRidge
from blocklora.metrics import choose_candidate

BETAS = [0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0]
RIDGES = [10.0, 10**0.5, 1.0, 10**-0.5, 0.1, 10**-1.5, 0.01, 10**-2.5, 0.001]


def by_formula(
    x: np.ndarray, labels: np.ndarray, texts: np.ndarray, beta: float, ridge: float, inputs: np.ndarray
) -> np.ndarray:
    """Return g(x), with the RBF kernel written by squared distances."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-beta / 2 * ((a[:, None] - b[None]) ** 2).sum(axis=2))

    left = np.eye(len(texts))[labels] - x @ texts.T
    solved = np.linalg.solve(kernel(x, x) + ridge * np.eye(len(x)), left)
    return inputs @ texts.T + kernel(inputs, x) @ solved


def numbers(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features = frozen_features(job, job.task.train)[0].double()
    return features.numpy(), labels_of(job.task.train).numpy(), job.written_classes.double().numpy()


def test_the_cache_head_is_the_formula(job: Job) -> None:
    x, labels, texts = numbers(job)
    draw = torch.Generator().manual_seed(0)
    inputs = F.normalize(torch.randn(5, 16, generator=draw).double(), dim=1)
    found = fit(job, "proker", beta=2.0, ridge=0.3)
    expected = job.scale * by_formula(x, labels, texts, 2.0, 0.3, inputs.numpy())
    np.testing.assert_allclose(found.classifier.logits(inputs), expected, rtol=1e-4, atol=1e-4)
    assert found.choices["beta"] == Choice(2.0, "fixed", "given")
    assert found.choices["ridge"] == Choice(0.3, "fixed", "given")
    assert found.held_out is None


def test_under_a_large_penalty_it_is_zero_shot(job: Job) -> None:
    x, _, texts = numbers(job)
    found = fit(job, "proker", beta=2.0, ridge=1e12).classifier.logits(torch.from_numpy(x))
    np.testing.assert_allclose(found, job.scale * x @ texts.T, atol=1e-5)


@pytest.mark.parametrize(("beta", "ridge"), [(0.1, 1e-3), (3.0, 0.1), (20.0, 10.0)])
def test_leave_one_out_is_leaving_one_out(beta: float, ridge: float) -> None:
    draw = torch.Generator().manual_seed(2)
    features = F.normalize(torch.randn(9, 5, generator=draw).double(), dim=1)
    targets = torch.randn(9, 3, generator=draw).double()
    found = KernelRidge(features, targets, beta).leave_one_out(ridge)
    for i in range(9):
        others = torch.arange(9) != i
        expected = KernelRidge(features[others], targets[others], beta).predict(features[i : i + 1], ridge)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("given", [{}, {"beta": 2.0}, {"ridge": 0.5}])
def test_both_are_chosen_by_leaving_one_out(job: Job, given: dict[str, float]) -> None:
    job = replace(job, task=make_task(job.clip, shots=3))
    x, labels, texts = numbers(job)
    grid = [
        (beta, ridge)
        for beta in ([given["beta"]] if "beta" in given else BETAS)
        for ridge in ([given["ridge"]] if "ridge" in given else RIDGES)
    ]
    logits = np.zeros((len(grid), 9, 3))
    for i in range(9):
        others = np.arange(9) != i
        for number, (beta, ridge) in enumerate(grid):
            found = by_formula(x[others], labels[others], texts, beta, ridge, x[i : i + 1])
            logits[number, i] = job.scale * found[0]
    found = fit(job, "proker", **given)
    best = choose_candidate(logits, labels)
    for name, value in zip(("beta", "ridge"), grid[best.index], strict=True):
        choice = found.choices[name]
        assert choice.value == pytest.approx(value)
        if name in given:
            assert choice == Choice(value, "fixed", "given")
        else:
            assert choice.reason == "cross-validated on the training images, leaving out one at a time"
            assert (choice.n_images, choice.candidates) == (9, len(grid))
    assert found.held_out is not None
    np.testing.assert_allclose(found.held_out.logits, logits[best.index], rtol=1e-4, atol=1e-4)


def test_both_by_validation_images_or_beforehand(job: Job) -> None:
    for found in fit(replace(job, task=make_task(job.clip, n_val=2)), "proker", ridge=0.5).choices.values():
        assert (found.by, found.n_images, found.candidates) in (("validation", 6, 8), ("fixed", 0, 1))
    one = replace(job, task=make_task(job.clip, shots=1))
    for given, expected in (({}, (3.0, 0.1)), ({"beta": 1.5}, (1.5, 0.1)), ({"ridge": 2.0}, (3.0, 2.0))):
        choices = fit(one, "proker", **given).choices
        assert (choices["beta"].value, choices["ridge"].value) == expected


@pytest.mark.parametrize("name", ["beta", "ridge"])
def test_wrong_settings(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} '0.0': expected a positive number"):
        make_settings("proker", find_method("proker").settings, {name: 0.0})
