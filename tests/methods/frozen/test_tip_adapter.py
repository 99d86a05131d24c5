"""Tip-Adapter's cache, and how its alpha and beta are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import fit

from blocklora.classifier.heads import cache_logits
from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError
from blocklora.methods import Job
from blocklora.methods.frozen.features import frozen_features
from blocklora.methods.frozen.tip_adapter import choose


def test_the_cache_is_the_mean_of_all_passes(job: Job) -> None:
    job = replace(job, seed=4)
    tensors = fit(job, "tip-adapter", passes=3).classifier.head.tensors
    views = frozen_features(job, job.task.train, augment="crop", passes=3).double().numpy()
    for k in range(6):
        mean = (views[0, k] + views[1, k] + views[2, k]) / 3
        np.testing.assert_allclose(tensors["keys"][k], mean / np.sqrt((mean**2).sum()), rtol=1e-4, atol=1e-6)
    assert tensors["values"].argmax(dim=1).tolist() == [0, 0, 1, 1, 2, 2]
    assert tensors["values"].sum() == 6


def test_alpha_0_is_zero_shot(job: Job) -> None:
    fitted = fit(job, "tip-adapter", passes=1, alpha=0.0, beta=3.0)
    features = frozen_features(job, job.task.train)[0]
    expected = job.scale * features.double() @ job.written_classes.double().T
    torch.testing.assert_close(fitted.classifier.logits(features), expected)
    assert [fitted.choices[name] for name in ("alpha", "beta")] == [
        Choice(value, "fixed", "given") for value in (0.0, 3.0)
    ]


def test_alpha_and_beta_are_the_best_on_validation_images() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "class_features": F.normalize(torch.randn(3, 8, generator=generator), dim=-1),
        "keys": F.normalize(torch.randn(9, 8, generator=generator), dim=-1),
        "values": torch.eye(3).repeat(3, 1),
    }
    features = F.normalize(torch.randn(40, 8, generator=generator), dim=-1)
    labels = torch.randint(0, 3, (40,), generator=generator)
    found = choose(tensors, 2.0, features, labels, alpha=None, beta=None, largest=(3.0, 7.0))

    def score(alpha: float, beta: float) -> float:
        logits = cache_logits(features, **tensors, scale=2.0, alpha=alpha, beta=beta)
        return float((logits.argmax(dim=1) == labels).float().mean())

    alphas = [i * (3 - 0.1) / 20 + 0.1 for i in range(20)]
    betas = [i * (7 - 0.1) / 200 + 0.1 for i in range(200)]
    best = max(score(a, b) for b in betas[::5] for a in alphas)
    assert score(found["alpha"].value, found["beta"].value) >= best
    for chosen in found.values():
        assert (chosen.by, chosen.n_images, chosen.candidates) == ("validation", 40, 4000)
        assert chosen.score == pytest.approx(score(found["alpha"].value, found["beta"].value))


def test_alpha_or_beta_may_be_given() -> None:
    tensors = {"class_features": torch.eye(3, 8), "keys": torch.eye(3, 8), "values": torch.eye(3)}
    features, labels = torch.eye(3, 8), torch.arange(3)
    without = choose(tensors, 2.0, features[:0], labels[:0], alpha=None, beta=2.0, largest=(3.0, 7.0))
    assert without["alpha"] == Choice(1.0, "fixed", "there are no validation images to choose it by")
    assert without["beta"] == Choice(2.0, "fixed", "given")
    half = choose(tensors, 2.0, features, labels, alpha=None, beta=2.0, largest=(3.0, 7.0))
    assert half["beta"] == Choice(2.0, "fixed", "given")
    assert (half["alpha"].by, half["alpha"].candidates) == ("validation", 20)


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"beta": 0.0}, {"passes": 0}, {"smallest_crop": 0.0}])
def test_wrong_settings(job: Job, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        fit(job, "tip-adapter", **wrong)
