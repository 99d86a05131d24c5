from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from blocklora.classifier.heads import cosine_head
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, Fitted, Task, make_settings
from blocklora.methods.frozen.on_features import FeatureBatches, labels_of, picture_features, text_embeddings

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]


def features_of(task: Task, clip: Clip) -> np.ndarray:
    return picture_features(task.train, clip, Compute(torch.device("cpu"), "fp32"))[0].double().numpy()


def test_the_probe_is_penalised_logistic_regression(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip, shots=3)
    c = 50.0
    head = fit_method("linear-probe", task, clip, c=c).head
    assert head is not None
    features, labels = features_of(task, clip), labels_of(task.train).numpy()

    def loss(flat: np.ndarray) -> float:
        weight, bias = flat[: 3 * 16].reshape(3, 16), flat[3 * 16 :]
        logits = features @ weight.T + bias
        each = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
        return float(c * each.sum() + 0.5 * (weight**2).sum())

    found = minimize(loss, np.zeros(51), method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 10**6})
    ours = np.concatenate(
        [head.tensors["weight"].double().numpy().ravel(), head.tensors["bias"].double().numpy()]
    )
    assert loss(ours) <= found.fun * (1 + 1e-4)


def test_two_classes_give_two_logits(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    two = Task(task.class_names[:2], task.prompts[:2], task.tokens[:2], task.train[:4], flip=False)
    fitted = fit_method("linear-probe", two, clip, c=1e4)
    assert fitted.head is not None
    logits = fitted.head.logits(torch.from_numpy(features_of(two, clip)))
    assert logits.shape == (4, 2)
    assert logits.argmax(dim=1).tolist() == [0, 0, 1, 1]


def test_c_comes_from_validation_pictures_or_is_fixed(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    chosen = fit_method("linear-probe", task_of(clip, n_val=2), clip)
    assert "the best of 25 on 6 validation pictures" in chosen.selection["C"]
    fixed = fit_method("linear-probe", task_of(clip), clip)
    assert fixed.selection["C"] == "31.6, fixed: there are no validation pictures to choose it by"
    assert fit_method("linear-probe", task_of(clip), clip, c=2.0).selection["C"] == "2, given beforehand"
    with pytest.raises(ConfigError, match=r"c '-1\.0': expected a positive number"):
        make_settings("linear-probe", METHODS["linear-probe"], {"c": -1.0})


def test_the_zero_shot_probe_starts_at_zero_shot(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    fitted = fit_method("zero-shot-probe", task_of(clip), clip, lr=1e-30, epochs=2, passes=1)
    zero_shot = fit_method("zero-shot", task_of(clip), clip)
    torch.testing.assert_close(fitted.class_features, zero_shot.class_features, rtol=0, atol=1e-4)


def test_the_zero_shot_probe_is_sgd_on_scaled_cosines(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    given = {"lr": 0.1, "weight_decay": 5e-4, "epochs": 3, "passes": 2, "batch_size": 4, "augment": "none"}
    fitted = fit_method("zero-shot-probe", task, clip, seed=7, **given)
    features = picture_features(task.train, clip, Compute(torch.device("cpu"), "fp32"), passes=2)
    batches = FeatureBatches(features, labels_of(task.train), batch_size=4, seed=7, draw="mixed")
    scale = float(clip.model.logit_scale.exp())
    prototypes, velocity = text_embeddings(task, clip).double(), torch.zeros(3, 16, dtype=torch.float64)
    for step in range(6):
        inputs, labels = batches.batch(step)
        norms = prototypes.norm(dim=1, keepdim=True)
        units = prototypes / norms
        wrong = (scale * inputs.double() @ units.T).softmax(dim=1) - torch.eye(3)[labels]  # dL/dlogits x B
        to_units = scale * wrong.T @ inputs.double() / len(labels)  # (N, D)
        gradient = (to_units - units * (to_units * units).sum(dim=1, keepdim=True)) / norms
        velocity = 0.9 * velocity + gradient + 5e-4 * prototypes
        epoch = step // 2
        lr = 1e-5 if epoch == 0 else 0.1 * (1 + np.cos(np.pi * (epoch - 1) / 3)) / 2
        prototypes = prototypes - lr * velocity
    expected = (prototypes / prototypes.norm(dim=1, keepdim=True)).float()
    torch.testing.assert_close(fitted.class_features, expected, rtol=1e-4, atol=1e-5)
    assert fitted.training is not None
    assert [row["lr"] for row in fitted.training.history()] == pytest.approx(
        [1e-5, 1e-5, 0.1, 0.1, 0.075, 0.075]
    )
    plain = cosine_head(text_embeddings(task, clip), 1.0)
    assert plain.kind == "cosine"
