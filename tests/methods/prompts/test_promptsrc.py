"""PromptSRC, against plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import fit

from blocklora.methods import Job
from blocklora.methods.prompts.promptsrc import epoch_weights, regularised_loss


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=-1).double()


def test_the_loss_is_the_formula() -> None:
    images, frozen_images, classes, frozen_classes = (
        unit(rows, seed) for rows, seed in ((4, 0), (4, 1), (3, 2), (3, 3))
    )
    labels = torch.tensor([0, 2, 1, 1])
    found = regularised_loss(
        images, classes, frozen_images, frozen_classes, labels, scale=7.0, text_weight=25.0, image_weight=10.0
    )
    i, fi, c, fc = (t.numpy() for t in (images, frozen_images, classes, frozen_classes))
    p, q = (
        np.exp(7 * a @ b.T) / np.exp(7 * a @ b.T).sum(axis=1, keepdims=True) for a, b in ((i, c), (fi, fc))
    )
    slow = -np.mean([np.log(p[row, label]) for row, label in enumerate(labels.tolist())])
    slow += 25 * np.abs(c - fc).mean() + 10 * np.abs(i - fi).mean()
    slow += sum(q[m, n] * (np.log(q[m, n]) - np.log(p[m, n])) for m in range(4) for n in range(3)) / 12
    assert float(found) == pytest.approx(slow)


def test_weights_of_epochs() -> None:
    weights = epoch_weights(50, 30.0, 30.0)
    assert sum(weights) == pytest.approx(1.0)
    assert max(range(50), key=lambda epoch: weights[epoch]) == 29
    assert weights[0] / weights[29] == pytest.approx(math.exp(-0.5 * (29 / 30) ** 2))


def test_it_keeps_the_weighted_mean(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"batch_size": 6, "lr": 0.1, "augment": "none", "mean_epoch": 1.0, "spread": 1.0}
    fitted = fit(job, "promptsrc", epochs=2, **more)
    assert fitted.trainable_parameters == 2 * 4 * 32 + 2 * 4 * 32
    kept = fitted.choices["kept step"]
    assert (kept.value, kept.by) == (2, "fixed")
    assert "the mean over all epochs" in kept.reason
    found = [fitted.classifier.image.prompts]
    for weights in ([1.0, 0.0], [0.0, 1.0]):
        monkeypatch.setattr("blocklora.methods.prompts.promptsrc.epoch_weights", lambda *_, w=weights: w)
        found.append(fit(job, "promptsrc", epochs=2, **more).classifier.image.prompts)
    both, first, second = (vectors for vectors in found if vectors is not None)
    share = 1 / (1 + math.exp(-0.5))
    torch.testing.assert_close(both, share * first + (1 - share) * second)
    assert not torch.allclose(first, second, atol=1e-5)
