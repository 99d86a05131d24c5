"""CoCoOp, MaPLe and PromptSRC, against plain torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blocklora import FewShotClassifier
from blocklora.classifier.class_prompts import ClassPrompts
from blocklora.classifier.heads import CONDITIONAL, conditional_logits
from blocklora.clip import Clip, class_features, image_features, load_clip, pixels, text_features
from blocklora.clip.prompted import prompted_image_features
from blocklora.core.errors import RunError
from blocklora.data import open_image
from blocklora.methods import Fitted, Task
from blocklora.methods.prompts.learned_prompts import random_vectors, start_context
from blocklora.methods.prompts.maple import image_prompts
from blocklora.methods.prompts.promptsrc import epoch_weights, regularised_loss

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]


def pictures(task: Task, clip: Clip) -> torch.Tensor:
    return torch.stack([pixels(open_image(example.source), clip.processor) for example in task.train])


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_conditional_logits_shift_the_words_by_the_picture(clip: Clip, task_of: Tasks) -> None:
    task = task_of(clip)
    prompts, start = start_context(task, clip, "a photo of a", 4, seed=0)
    features, generator = unit(3, 16, seed=1), torch.Generator().manual_seed(2)
    down, down_bias = torch.randn(2, 16, generator=generator), torch.randn(2, generator=generator)
    up, up_bias = torch.randn(32, 2, generator=generator) * 0.1, torch.randn(32, generator=generator) * 0.1
    found = conditional_logits(
        features,
        prompts=prompts,
        context=start,
        down=down,
        down_bias=down_bias,
        up=up,
        up_bias=up_bias,
        scale=5.0,
    )
    for row, feature in enumerate(features):
        hidden = [max(0.0, float(down[h] @ feature + down_bias[h])) for h in range(2)]
        shift = torch.stack([up[w, 0] * hidden[0] + up[w, 1] * hidden[1] + up_bias[w] for w in range(32)])
        classes = prompts.features(start + shift)
        torch.testing.assert_close(found[row], 5.0 * classes @ feature, rtol=1e-4, atol=1e-5)


def test_cocoop_without_a_shift_is_zero_shot(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    fitted = fit_method("cocoop", task, clip, epochs=1, batch_size=6)  # one step at 1e-5
    head = fitted.head
    assert head is not None
    assert head.kind == CONDITIONAL
    assert fitted.trainable_parameters == 4 * 32 + (1 * 16 + 1) + (32 * 1 + 32)
    silent = {
        name: torch.zeros_like(t) if name.startswith(("up", "down")) else t
        for name, t in head.tensors.items()
    }
    features = unit(4, 16, seed=3)
    prompts = ClassPrompts(clip.model, silent.pop("tokens"))
    logits = conditional_logits(features, prompts=prompts, **silent, **head.numbers)
    zero_shot = class_features(clip.model, task.tokens)
    expected = clip.model.logit_scale.exp() * features @ zero_shot.T
    torch.testing.assert_close(logits.detach(), expected.detach(), rtol=1e-4, atol=1e-3)


def test_cocoop_learns(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    fitted = fit_method("cocoop", task_of(clip), clip, epochs=12, batch_size=3, lr=0.05, augment="none")
    assert fitted.training is not None
    assert fitted.training.losses[-4:].mean() < fitted.training.losses[:4].mean() - 0.05


def test_a_conditional_classifier_needs_its_text_tower(
    make_clip: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    base = make_clip(tmp_path / "base", seed=1)
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    FewShotClassifier(model=str(base), method="cocoop", shots=1, device="cpu", epochs=1, batch_size=3).fit(
        paths, labels
    ).save(tmp_path / "kept")
    record = json.loads((tmp_path / "kept" / "classifier.json").read_text(encoding="utf-8"))
    assert len(record["text_tower_sha256"]) == 64
    clip = load_clip(str(base))
    with torch.no_grad():
        clip.model.text_projection.weight[0, 0] += 1
    clip.model.save_pretrained(base)
    with pytest.raises(RunError, match="has other weights than when"):
        FewShotClassifier.load(tmp_path / "kept", device="cpu")


def test_maple_maps_every_layer_by_its_own(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    fitted = fit_method("maple", task, clip, epochs=2, lr=0.1)
    # 2 layers: 2 x 2 vectors of 32, and a map of 32 x 32 with a bias for each layer.
    assert fitted.trainable_parameters == 2 * 2 * 32 + 2 * (32 * 32 + 32)
    assert fitted.tower.prompts is not None
    assert fitted.tower.prompts.shape == (2, 2, 32)
    generator = torch.Generator().manual_seed(0)
    context, deep = torch.randn(2, 32, generator=generator), torch.randn(1, 2, 32, generator=generator)
    weight, bias = torch.randn(2, 32, 32, generator=generator), torch.randn(2, 32, generator=generator)
    found = image_prompts(context, deep, weight, bias)
    for layer, text in enumerate((context, deep[0])):
        for vector in range(2):
            expected = weight[layer] @ text[vector] + bias[layer]
            torch.testing.assert_close(found[layer, vector], expected, rtol=1e-4, atol=1e-4)


def test_maple_takes_the_first_step_of_sgd(
    clip: Clip, task_of: Tasks, fit_method: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocklora.training.minimise._WARM_UP_LR", 0.05)
    task = task_of(clip)
    more = {"epochs": 1, "batch_size": 6, "augment": "none"}
    after = fit_method("maple", task, clip, lr=0.05, **more).tower.prompts
    monkeypatch.setattr("blocklora.training.minimise._WARM_UP_LR", 0.0)
    before = fit_method("maple", task, clip, lr=0.05, **more).tower.prompts
    assert after is not None
    assert before is not None
    # The step on context, maps and biases, by autograd over the formula; the start is that of a run that stands still.
    prompts, start = start_context(task, clip, "a photo of a", 2, seed=0)
    deep = random_vectors(1, 2, 32, seed=0, stream=1).requires_grad_()
    context = start.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    maps = [(2 * torch.rand(32, 33, generator=generator) - 1) / math.sqrt(32) for _ in range(2)]
    weight = torch.stack([m[:, :32] for m in maps]).requires_grad_()
    bias = torch.stack([m[:, 32] for m in maps]).requires_grad_()
    visual = torch.stack([context @ weight[0].T + bias[0], deep[0] @ weight[1].T + bias[1]])
    torch.testing.assert_close(before, visual, rtol=1e-4, atol=1e-5)
    images = prompted_image_features(clip.model, pictures(task, clip), visual)
    logits = clip.model.logit_scale.exp() * images @ prompts.features(context, deep).T
    labels = torch.tensor([example.label for example in task.train])
    trained = [context, deep, weight, bias]
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), trained)
    c, d, w, b = (t - 0.05 * (g + 5e-4 * t) for t, g in zip(trained, gradients, strict=True))
    expected = torch.stack([c @ w[0].T + b[0], d[0] @ w[1].T + b[1]])
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-4)


def test_promptsrc_loss_is_the_formula() -> None:
    images, frozen_images = unit(4, 6, seed=0).double(), unit(4, 6, seed=1).double()
    classes, frozen_classes = unit(3, 6, seed=2).double(), unit(3, 6, seed=3).double()
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


def test_promptsrc_weights_of_epochs() -> None:
    weights = epoch_weights(50, 30.0, 30.0)
    assert sum(weights) == pytest.approx(1.0)
    assert max(range(50), key=lambda epoch: weights[epoch]) == 29
    assert weights[0] / weights[29] == pytest.approx(math.exp(-0.5 * (29 / 30) ** 2))


def test_promptsrc_keeps_the_weighted_mean(
    clip: Clip, task_of: Tasks, fit_method: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(clip)
    more = {"batch_size": 6, "lr": 0.1, "augment": "none", "mean_epoch": 1.0, "spread": 1.0}
    two = fit_method("promptsrc", task, clip, epochs=2, **more)
    monkeypatch.setattr("blocklora.methods.prompts.promptsrc.epoch_weights", lambda *_: [1.0, 0.0])
    first = fit_method("promptsrc", task, clip, epochs=2, **more)
    monkeypatch.setattr("blocklora.methods.prompts.promptsrc.epoch_weights", lambda *_: [0.0, 1.0])
    second = fit_method("promptsrc", task, clip, epochs=2, **more)
    share = 1 / (1 + math.exp(-0.5))
    assert first.tower.prompts is not None
    assert second.tower.prompts is not None
    assert two.tower.prompts is not None
    torch.testing.assert_close(
        two.tower.prompts, share * first.tower.prompts + (1 - share) * second.tower.prompts
    )
    assert not torch.allclose(first.tower.prompts, second.tower.prompts, atol=1e-5)
    assert two.trainable_parameters == 2 * 4 * 32 + 2 * 4 * 32
    assert "the mean over all 2 epochs" in two.selection["kept step"]


def test_towers_keep_their_weights(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    values = pictures(task, clip)
    before = image_features(clip.model, values), text_features(clip.model, task.tokens)
    for method in ("maple", "promptsrc", "cocoop"):
        fit_method(method, task, clip, epochs=1)
    assert torch.equal(image_features(clip.model, values), before[0])
    assert torch.equal(text_features(clip.model, task.tokens), before[1])
