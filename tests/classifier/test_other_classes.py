"""Classes that a method has not seen, by their names alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blocklora.classifier.save import read_classifier
from blocklora.classifier.text_side import TextSide, other_classes

from blocklora import FewShotClassifier
from blocklora.classifier.heads import cosine_head
from blocklora.clip import Clip, class_features, load_clip
from blocklora.core.errors import ConfigError, RunError
from blocklora.methods import CLOSED_METHODS, ENSEMBLE_METHODS, METHODS, Fitted, Task

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]
TEMPLATE = ("a photo of a {}.",)
KNOW_NAMES: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "block-lora": {"iterations": 2, "lr": 1e-2},
    "clip-lora": {"iterations": 2, "lr": 1e-2},
    "clip-adapter": {"epochs": 2, "passes": 1},
    "layer-norm": {"iterations": 2, "lr": 1e-2},
    "full": {"iterations": 2, "lr": 1e-3},
    "coop": {"epochs": 2, "lr": 0.1},
    "kgcoop": {"epochs": 2, "lr": 0.1},
    "prograd": {"epochs": 2, "lr": 0.1},
    "cocoop": {"epochs": 2, "lr": 0.1, "batch_size": 6},
    "maple": {"epochs": 2, "lr": 0.1},
    "promptsrc": {"epochs": 2, "lr": 0.1},
}
KNOW_NO_OTHERS: dict[str, dict[str, Any]] = {
    "linear-probe": {},
    "zero-shot-probe": {"epochs": 1, "passes": 1},
    "tip-adapter": {"passes": 1},
    "tip-adapter-f": {"passes": 1, "epochs": 1},
    "taskres": {"passes": 1, "epochs": 1},
    "lp++": {"epochs": 1},
}


def base(fitted: Fitted) -> Any:
    return fitted.model.get_base_model() if hasattr(fitted.model, "get_base_model") else fitted.model


@pytest.mark.parametrize("method", KNOW_NAMES)
def test_the_same_names_give_the_same_head(clip: Clip, task_of: Tasks, fit_method: Fit, method: str) -> None:
    task = task_of(clip)
    fitted = fit_method(method, task, clip, **KNOW_NAMES[method])
    own = fitted.head or cosine_head(fitted.class_features, float(clip.model.logit_scale.exp()))
    same = other_classes(own, fitted.text, base(fitted), clip, task.class_names, TEMPLATE)
    assert same.tensors.keys() == own.tensors.keys()
    assert fitted.text is not None
    assert (fitted.text.context is None) == (method in ENSEMBLE_METHODS)
    for name, tensor in own.tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor, rtol=1e-5, atol=1e-6)
    features = torch.nn.functional.normalize(
        torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    two = other_classes(own, fitted.text, base(fitted), clip, ("blue", "old_car"), TEMPLATE)
    logits = two.logits(features)
    assert logits.shape == (4, 2)
    torch.testing.assert_close(logits[:, 0], own.logits(features)[:, 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", KNOW_NO_OTHERS)
def test_some_methods_know_no_other_classes(clip: Clip, task_of: Tasks, fit_method: Fit, method: str) -> None:
    fitted = fit_method(method, task_of(clip), clip, **KNOW_NO_OTHERS[method])
    own = fitted.head or cosine_head(fitted.class_features, 1.0)
    with pytest.raises(ConfigError, match="learns the classes that it saw and knows no others"):
        other_classes(own, fitted.text, fitted.model, clip, ("dog", "cat"), TEMPLATE)


def test_2sfs_knows_others_by_its_first_stage(clip: Clip, task_of: Tasks, fit_method: Fit) -> None:
    task = task_of(clip)
    both = fit_method("2sfs", task, clip, iterations=5, lr=1e-2, first_stage=0.6)
    assert both.text is not None
    own = cosine_head(both.class_features, 1.0)
    found = other_classes(own, both.text, clip.model, clip, task.class_names, TEMPLATE).tensors[
        "class_features"
    ]
    parameters = dict(clip.model.named_parameters())
    for name, value in both.text.weights.items():
        parameters[name].data = value
    torch.testing.assert_close(found, class_features(clip.model, task.tokens))
    assert not torch.allclose(found, both.class_features, atol=1e-4)


def test_templates_are_averaged_where_no_words_are_learned(clip: Clip, task_of: Tasks) -> None:
    task = task_of(clip)
    own = cosine_head(class_features(clip.model, task.tokens), 1.0)
    one, two = (
        other_classes(own, TextSide(), clip.model, clip, task.class_names, (template,)).tensors[
            "class_features"
        ]
        for template in ("a photo of a {}.", "many {}")
    )
    both = other_classes(own, TextSide(), clip.model, clip, task.class_names, ("a photo of a {}.", "many {}"))
    expected = (one + two) / (one + two).norm(dim=1, keepdim=True)
    torch.testing.assert_close(both.tensors["class_features"], expected)


@pytest.mark.parametrize("method", ["promptsrc", "layer-norm", "cocoop", "zero-shot"])
def test_the_text_side_is_saved(clip_folder: Path, photos: Path, tmp_path: Path, method: str) -> None:
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    classifier = FewShotClassifier(
        model=str(clip_folder), method=method, shots=1, device="cpu", **KNOW_NAMES[method]
    ).fit(paths, labels)
    classifier.save(tmp_path / "kept")
    saved, _ = read_classifier(tmp_path / "kept")
    clip = load_clip(str(clip_folder))
    names = classifier.fitted.class_names
    again = other_classes(saved.head, saved.text, clip.model, clip, names, TEMPLATE)
    for name, tensor in classifier.fitted.head.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-5, atol=1e-6)
    if method != "zero-shot":
        (tmp_path / "kept" / "text_tower.safetensors").unlink()
        with pytest.raises(RunError, match=r"text_tower\.safetensors: this file cannot be used"):
            read_classifier(tmp_path / "kept")


def test_the_lists_of_methods_are_true() -> None:
    assert set(CLOSED_METHODS) == set(KNOW_NO_OTHERS)
    assert set(METHODS) - set(CLOSED_METHODS) == {*KNOW_NAMES, "2sfs", "peft"}
