"""LayerNorm tuning, 2SFS and full fine-tuning, against plain torch on a copy of the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from blocklora.classifier.tower import changed_image_features
from blocklora.clip import Clip, class_features, image_features, pixels
from blocklora.data import open_image
from blocklora.methods import Fitted, Task
from blocklora.methods.weights.own_weights import steps_of

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]
# Width 32; in the image tower one LayerNorm before, one behind, two in each of two layers; in the text tower one less.
LAYER_NORMS = (6 + 5) * 2 * 32


def pictures(task: Task, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.stack([pixels(open_image(example.source), clip.processor) for example in task.train])
    return values, torch.tensor([example.label for example in task.train])


def slow(
    clip: Clip, task: Task, names: Callable[[str], bool], steps: int, lr: float, decay: float
) -> torch.nn.Module:
    """Train a copy, whole batch, without anything of ours."""
    model = copy.deepcopy(clip.model)
    values, labels = pictures(task, clip)
    chosen = [p.requires_grad_(True) for name, p in model.named_parameters() if names(name)]
    optimizer = torch.optim.AdamW(chosen, lr=lr, weight_decay=decay)
    for step in range(steps):
        last = 1e-6 / lr
        optimizer.param_groups[0]["lr"] = lr * (
            last + (1 - last) * (1 + math.cos(math.pi * step / steps)) / 2
        )
        together = model(input_ids=task.tokens, pixel_values=values)
        optimizer.zero_grad()
        F.cross_entropy(together.logits_per_image, labels).backward()
        optimizer.step()
    return model.requires_grad_(False)


@pytest.mark.parametrize(("method", "decay"), [("layer-norm", 1e-2), ("full", 0.1)])
def test_trained_weights_are_those_of_plain_torch(
    clip: Clip, task_of: Tasks, fit_method: Fit, method: str, decay: float
) -> None:
    task = task_of(clip)
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}

    def names(name: str) -> bool:
        return "norm" in name or "layrnorm" in name if method == "layer-norm" else name != "logit_scale"

    model = slow(clip, task, names, 3, 1e-3, decay)
    fitted = fit_method(method, task, clip, iterations=3, lr=1e-3, augment="none")
    values, _ = pictures(task, clip)
    ours = changed_image_features(fitted.model, fitted.tower, values)
    torch.testing.assert_close(ours, image_features(model, values), rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(
        fitted.class_features, class_features(model, task.tokens), rtol=1e-3, atol=2e-4
    )
    assert not torch.allclose(ours, image_features(clip.model, values), atol=2e-3)
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    total = sum(p.numel() for p in clip.model.parameters()) - 1
    assert fitted.trainable_parameters == (LAYER_NORMS if method == "layer-norm" else total)
    assert fitted.selection["kept step"].startswith("the last of 3")


def test_steps_follow_the_shots(clip: Clip, task_of: Tasks) -> None:
    assert [steps_of(task_of(clip, shots=shots), None, 300) for shots in (1, 2, 20)] == [300, 600, 4800]
    assert steps_of(task_of(clip), 7, 300) == 7


def test_2sfs_trains_layer_norms_and_then_the_classes(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    values, labels = pictures(task, clip)
    fitted = fit_method("2sfs", task, clip, iterations=5, lr=1e-2, augment="none")
    assert fitted.trainable_parameters == LAYER_NORMS + 3 * 16
    model = slow(clip, task, lambda name: "norm" in name or "layrnorm" in name, 3, 1e-2, 1e-2)
    images = image_features(model, values)
    torch.testing.assert_close(
        changed_image_features(fitted.model, fitted.tower, values), images, rtol=1e-2, atol=2e-3
    )
    classes = torch.nn.Parameter(class_features(model, task.tokens))
    optimizer = torch.optim.AdamW([classes], lr=1e-2, weight_decay=1e-2)
    for step in range(2):
        last = 1e-6 / 1e-2
        optimizer.param_groups[0]["lr"] = 1e-2 * (last + (1 - last) * (1 + math.cos(math.pi * step / 2)) / 2)
        logits = model.logit_scale.exp() * images @ F.normalize(classes, dim=-1).T
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    torch.testing.assert_close(
        fitted.class_features, F.normalize(classes.detach(), dim=-1), rtol=1e-2, atol=2e-3
    )


def test_2sfs_with_its_first_stage_alone_is_layer_norm_tuning(
    clip: Clip, task_of: Tasks, fit_method: Fit
) -> None:
    task = task_of(clip)
    one = fit_method("2sfs", task, clip, iterations=3, lr=1e-2, first_stage=1.0)
    other = fit_method("layer-norm", task, clip, iterations=3, lr=1e-2)
    assert torch.equal(one.class_features, other.class_features)
    assert all(torch.equal(one.tower.weights[name], value) for name, value in other.tower.weights.items())
