from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from blocklora.classifier.heads import cache_logits
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, Fitted, Task, make_settings
from blocklora.methods.frozen.on_features import labels_of, picture_features
from blocklora.methods.frozen.tip_adapter import choose

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]
CPU = torch.device("cpu")


def features_of(task: Task, clip: Clip, **how: object) -> torch.Tensor:
    return picture_features(task.train, clip, Compute(CPU, "fp32"), **how)  # type: ignore[arg-type]


def test_the_cache_is_the_mean_of_all_passes(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    head = fit_method("tip-adapter", task, clip, seed=4, passes=3).head
    assert head is not None
    views = features_of(task, clip, augment="crop", passes=3, seed=4).double().numpy()
    for k in range(6):
        mean = (views[0, k] + views[1, k] + views[2, k]) / 3
        np.testing.assert_allclose(
            head.tensors["keys"][k], mean / np.sqrt((mean**2).sum()), rtol=1e-4, atol=1e-6
        )
    assert head.tensors["values"].argmax(dim=1).tolist() == [0, 0, 1, 1, 2, 2]
    assert head.tensors["values"].sum() == 6


def test_alpha_0_is_zero_shot(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    head = fit_method("tip-adapter", task, clip, passes=1, alpha=0.0, beta=3.0).head
    features = features_of(task, clip)[0]
    zero_shot = fit_method("zero-shot", task, clip).class_features
    assert head is not None
    expected = clip.model.logit_scale.exp().double() * features.double() @ zero_shot.double().T
    torch.testing.assert_close(head.logits(features), expected.detach())


def test_alpha_and_beta_are_the_best_on_validation_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "class_features": torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=-1),
        "keys": torch.nn.functional.normalize(torch.randn(9, 8, generator=generator), dim=-1),
        "values": torch.eye(3).repeat(3, 1),
    }
    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=-1)
    labels = torch.randint(0, 3, (40,), generator=generator)
    numbers, why = choose(tensors, 2.0, features, labels, alpha=None, beta=None, largest=(3.0, 7.0))

    def score(alpha: float, beta: float) -> float:
        logits = cache_logits(features, **tensors, scale=2.0, alpha=alpha, beta=beta)
        return float((logits.argmax(dim=1) == labels).float().mean())

    alphas = [i * (3 - 0.1) / 20 + 0.1 for i in range(20)]
    betas = [i * (7 - 0.1) / 200 + 0.1 for i in range(200)]
    best = max(score(a, b) for b in betas[::5] for a in alphas)
    found = score(numbers["alpha"], numbers["beta"])
    assert found >= best
    assert f"the best of 4000 on 40 validation pictures ({found:.1%})" in why
    fixed, why = choose(tensors, 2.0, features[:0], labels[:0], alpha=None, beta=2.0, largest=(3.0, 7.0))
    assert (fixed["alpha"], fixed["beta"]) == (1.0, 2.0)
    assert why == "1 and 2, fixed: there are no validation pictures to choose them by"
    half, why = choose(tensors, 2.0, features, labels, alpha=None, beta=2.0, largest=(3.0, 7.0))
    assert half["beta"] == 2.0
    assert "the best of 20" in why


def test_f_without_training_is_tip_adapter(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    plain = fit_method("tip-adapter", task, clip, passes=2, alpha=1.17, beta=1.0).head
    trained = fit_method("tip-adapter-f", task, clip, passes=2, lr=1e-30, weight_decay=0.0, epochs=1).head
    assert plain is not None
    assert trained is not None
    torch.testing.assert_close(trained.tensors["keys"], plain.tensors["keys"])
    assert trained.numbers == plain.numbers


def test_f_trains_its_keys_by_adamw(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    fitted = fit_method("tip-adapter-f", task, clip, passes=1, augment="none", epochs=2, lr=1e-2)
    assert fitted.head is not None
    assert fitted.trainable_parameters == 6 * 16
    features, labels = features_of(task, clip)[0].double(), labels_of(task.train)
    classes, scale = fitted.class_features.double(), float(clip.model.logit_scale.exp())
    keys, first, second = features.clone(), torch.zeros(6, 16).double(), torch.zeros(6, 16).double()
    values = torch.eye(3).double()[labels]
    for step in range(1, 3):
        cached = torch.exp(1.0 * (features @ keys.T - 1))  # (M, K)
        logits = scale * features @ classes.T + 1.17 * cached @ values
        wrong = (logits.softmax(dim=1) - torch.eye(3)[labels]) / len(labels)  # (M, N)
        gradient = (1.17 * (wrong @ values.T) * cached).T @ features  # (K, D)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        lr = 1e-2 * (1 + np.cos(np.pi * (step - 1) / 2)) / 2
        keys = keys * (1 - lr * 1e-2)
        keys = keys - lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-4)
    torch.testing.assert_close(fitted.head.tensors["keys"].double(), keys, rtol=1e-4, atol=1e-5)


def test_f_chooses_on_validation_pictures_only(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    fitted = fit_method("tip-adapter-f", task_of(clip, n_val=2), clip, passes=1, epochs=3)
    assert "of 3, the latest of the best on 6 validation pictures" in fitted.selection["kept step"]
    assert "the best of 4000 on 6 validation pictures" in fitted.selection["alpha, beta"]
    fixed = fit_method("tip-adapter-f", task_of(clip), clip, passes=1, epochs=3)
    assert fixed.selection["kept step"].startswith("the last of 3 epochs, fixed")
    assert fixed.selection["alpha, beta"] == "1.17 and 1, given beforehand"


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"beta": 0.0}, {"passes": 0}, {"smallest_crop": 0.0}])
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_settings("tip-adapter", METHODS["tip-adapter"], wrong)
