"""CLIP-Adapter, TaskRes and LP++: each against its formula, in plain numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods import Fitted, Task
from blocklora.methods.frozen.lp_plus_plus import start, step_sizes
from blocklora.methods.frozen.on_features import (
    FeatureBatches,
    Keeper,
    labels_of,
    picture_features,
    text_embeddings,
)

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]


def features_of(task: Task, clip: Clip) -> torch.Tensor:
    return picture_features(task.train, clip, Compute(torch.device("cpu"), "fp32"))


def test_clip_adapter_with_ratio_0_is_zero_shot(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    head = fit_method("clip-adapter", task, clip, ratio=0.0, epochs=2, passes=1).head
    assert head is not None
    features = features_of(task, clip)[0]
    zero_shot = fit_method("zero-shot", task, clip).class_features.double()
    expected = clip.model.logit_scale.exp().double() * features.double() @ zero_shot.T
    torch.testing.assert_close(head.logits(features), expected.detach(), rtol=1e-6, atol=1e-6)


def test_clip_adapter_descends_its_formula(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    given = {"passes": 1, "augment": "none", "reduction": 2, "batch_size": 99}
    before = fit_method("clip-adapter", task, clip, lr=1e-30, epochs=1, **given).head
    after = fit_method("clip-adapter", task, clip, lr=0.5, epochs=2, **given)
    assert before is not None
    assert after.head is not None
    assert after.trainable_parameters == 2 * 16 * 8
    features, labels = features_of(task, clip)[0].double().numpy(), labels_of(task.train).numpy()
    classes, scale = after.class_features.double().numpy(), float(clip.model.logit_scale.exp())

    def loss(flat: np.ndarray) -> float:
        down, up = flat[:128].reshape(8, 16), flat[128:].reshape(16, 8)
        mixed = 0.2 * np.maximum(np.maximum(features @ down.T, 0) @ up.T, 0) + 0.8 * features
        logits = scale * mixed / np.linalg.norm(mixed, axis=1, keepdims=True) @ classes.T
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]))

    flat = np.concatenate([before.tensors[name].double().numpy().ravel() for name in ("down", "up")])
    for lr in (1e-5, 0.5):  # CoOp's schedule: one warm-up epoch, then the cosine from its start
        gradient = np.array(
            [(loss(flat + 1e-6 * axis) - loss(flat - 1e-6 * axis)) / 2e-6 for axis in np.eye(len(flat))]
        )
        flat = flat - lr * gradient
    ours = np.concatenate([after.head.tensors[name].double().numpy().ravel() for name in ("down", "up")])
    np.testing.assert_allclose(ours, flat, atol=2e-5)


def test_taskres_with_a_zero_residual_is_zero_shot(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    zero_shot = fit_method("zero-shot", task, clip).class_features
    for settings in ({"alpha": 0.0}, {"lr": 1e-30, "epochs": 1}):
        fitted = fit_method("taskres", task, clip, passes=1, **({"epochs": 3} | settings))
        torch.testing.assert_close(fitted.class_features, zero_shot, rtol=1e-4, atol=2e-5)


def test_taskres_is_adam_on_its_formula(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    fitted = fit_method(
        "taskres", task, clip, seed=2, passes=1, augment="none", epochs=3, lr=0.1, batch_size=4
    )
    batches = FeatureBatches(features_of(task, clip), labels_of(task.train), batch_size=4, seed=2)
    base, scale = text_embeddings(task, clip).double(), float(clip.model.logit_scale.exp())
    residual, first, second = (torch.zeros(3, 16).double() for _ in range(3))
    for step in range(6):
        inputs, labels = batches.batch(step)
        summed = base + 0.5 * residual
        norms = summed.norm(dim=1, keepdim=True)
        units = summed / norms
        wrong = ((scale * inputs.double() @ units.T).softmax(dim=1) - torch.eye(3)[labels]) / len(labels)
        to_units = scale * wrong.T @ inputs.double()
        gradient = 0.5 * (to_units - units * (to_units * units).sum(dim=1, keepdim=True)) / norms
        gradient = gradient + 5e-4 * residual
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        lr = 1e-5 if step < 2 else 0.1 * (1 + np.cos(np.pi * (step // 2 - 1) / 3)) / 2
        corrected = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        residual = residual - lr * (first / (1 - 0.9 ** (step + 1))) / corrected
    expected = base + 0.5 * residual
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(fitted.class_features.double(), expected, rtol=1e-3, atol=1e-4)


def test_taskres_epochs_follow_the_shots(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    for shots, epochs in ((1, 100), (5, 200)):
        fitted = fit_method("taskres", task_of(clip, shots=shots), clip, passes=1)
        assert fitted.training is not None
        assert len(fitted.training.losses) == epochs


def test_lp_plus_plus_step_sizes_are_its_bounds() -> None:
    features = torch.nn.functional.normalize(
        torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    classes = torch.nn.functional.normalize(
        torch.randn(4, 6, generator=torch.Generator().manual_seed(2)), dim=-1
    )
    weight_lr, alpha_lr = step_sizes(features, classes)
    f, t = features.double().numpy(), classes.double().numpy()
    largest = max(np.linalg.eigvals(f.T @ f).real)
    assert weight_lr == pytest.approx(4 * 20 / largest)
    assert alpha_lr == pytest.approx(20 / (4 * max(sum((x @ t[n]) ** 2 for x in f) for n in range(4))))


def test_lp_plus_plus_start() -> None:
    features, classes = torch.eye(4)[[0, 1, 2, 2]], torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.5, 0]])
    weight, alpha = start(features, torch.tensor([0, 0, 1, 1]), classes, 250.0)
    assert weight.tolist() == [[1, 1, 0, 0], [0, 0, 2, 0]]
    assert alpha.tolist() == [250 * 0.5] * 2  # the class means are (1 + 0) / 2 and (0.5 + 0.5) / 2


def test_lp_plus_plus_is_its_formula(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    given = {"augment": "none", "epochs": 7, "alpha_every": 3, "alpha_scale": 2.0}
    fitted = fit_method("lp++", task, clip, **given)
    assert fitted.head is not None
    assert fitted.trainable_parameters == 3 * 16 + 3
    f, labels = features_of(task, clip)[0].double().numpy(), labels_of(task.train).numpy()
    t = fitted.class_features.double().numpy()
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
    np.testing.assert_allclose(
        fitted.head.tensors["weight"], weight + alpha[:, None] * t, rtol=1e-3, atol=1e-4
    )
    assert not fitted.head.tensors["bias"].any()


def test_the_keeper_keeps_the_latest_best_epoch() -> None:
    tensor = torch.zeros(2)
    # Two epochs are right about both pictures, one about one: the later of the two best is kept.
    features, labels = torch.eye(2), torch.tensor([0, 1])
    keeper = Keeper([tensor], lambda inputs: inputs * tensor[0], features, labels, an_epoch=2)
    for step, value in enumerate([9.0, 1.0, 9.0, 2.0, 9.0, -1.0]):
        tensor[0] = value
        keeper.after_step(step)
    assert keeper.put_back(3) == "epoch 2 of 3, the latest of the best on 2 validation pictures (100.0%)"
    assert tensor[0] == 2.0
    without = Keeper([tensor], lambda inputs: inputs, features[:0], labels[:0], an_epoch=2)
    tensor[0] = 5.0
    without.after_step(1)
    assert without.put_back(1).startswith("the last of 1 epochs, fixed")
    assert tensor[0] == 5.0


@pytest.mark.parametrize("method", ["clip-adapter", "lp++"])
def test_the_epoch_is_chosen_on_validation_pictures(
    clip: Clip, task_of: Tasks, fit_method: Fit, method: str
) -> None:
    fitted = fit_method(method, task_of(clip, n_val=2), clip, passes=1, epochs=5)
    assert "the latest of the best on 6 validation pictures" in fitted.selection["kept step"]
