"""MaPLe, against plain torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from small_task import fit, train_pixels

from blocklora.clip import prompted_image_features
from blocklora.methods import Job
from blocklora.methods.frozen.features import labels_of
from blocklora.methods.prompts.learned_prompts import random_vectors, start_context
from blocklora.methods.prompts.maple import image_prompts


def image_vectors(job: Job, **settings: object) -> torch.Tensor:
    """Return the image tower's vectors (J, P, V) after a fit."""
    found = fit(job, "maple", **settings).classifier.image.prompts
    assert found is not None
    return found


def test_every_layer_has_a_map_of_its_own(job: Job) -> None:
    fitted = fit(job, "maple", epochs=2, lr=0.1)
    # 2 layers: 2 x 2 vectors of 32, and a map of 32 x 32 with a bias for each layer.
    assert fitted.trainable_parameters == 2 * 2 * 32 + 2 * (32 * 32 + 32)
    assert fitted.classifier.image.prompts is not None
    assert fitted.classifier.image.prompts.shape == (2, 2, 32)
    generator = torch.Generator().manual_seed(0)
    context, deep = torch.randn(2, 32, generator=generator), torch.randn(1, 2, 32, generator=generator)
    weight, bias = torch.randn(2, 32, 32, generator=generator), torch.randn(2, 32, generator=generator)
    found = image_prompts(context, deep, weight, bias)
    for layer, text in enumerate((context, deep[0])):
        for vector in range(2):
            expected = weight[layer] @ text[vector] + bias[layer]
            torch.testing.assert_close(found[layer, vector], expected, rtol=1e-4, atol=1e-4)


def test_it_takes_the_first_step_of_sgd(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocklora.core.schedules._WARM_UP_LR", 0.05)
    more = {"epochs": 1, "batch_size": 6, "augment": "none"}
    after = image_vectors(job, lr=0.05, **more)
    monkeypatch.setattr("blocklora.core.schedules._WARM_UP_LR", 0.0)
    before = image_vectors(job, lr=0.05, **more)
    # The step on context, maps and biases, by autograd over the formula; the start is that of a run that stands still.
    prompts, start = start_context(job, "a photo of a", 2)
    deep = random_vectors(1, 2, 32, seed=0, place=1).requires_grad_()
    context = start.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    maps = [(2 * torch.rand(32, 33, generator=generator) - 1) / math.sqrt(32) for _ in range(2)]
    weight = torch.stack([m[:, :32] for m in maps]).requires_grad_()
    bias = torch.stack([m[:, 32] for m in maps]).requires_grad_()
    visual = torch.stack([context @ weight[0].T + bias[0], deep[0] @ weight[1].T + bias[1]])
    torch.testing.assert_close(before, visual.detach(), rtol=1e-4, atol=1e-5)
    images = prompted_image_features(job.clip.model, train_pixels(job), visual)
    logits = job.scale * images @ prompts.features(context, deep).T
    trained = [context, deep, weight, bias]
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels_of(job.task.train)), trained)
    c, d, w, b = (t - 0.05 * (g + 5e-4 * t) for t, g in zip(trained, gradients, strict=True))
    expected = torch.stack([c @ w[0].T + b[0], d[0] @ w[1].T + b[1]])
    torch.testing.assert_close(after, expected.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-4)
