"""Classes that a method has not seen, by their names alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_task import QUICK, classes_of, fit

from blocklora.classifier import (
    Classifier,
    Head,
    TextChange,
    cosine_head,
    mean_features,
    other_classes,
    read_both_towers,
    template_features,
    write_classifier,
)
from blocklora.clip import class_features
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, Job

TEMPLATE = ("a photo of a {}.",)
BY_NAMES = [name for name, method in METHODS.items() if method.open and name not in ("2sfs", "peft")]
LEARN_WORDS = ("coop", "kgcoop", "prograd", "cocoop", "maple", "promptsrc")
CLOSED = [name for name, method in METHODS.items() if not method.open]


def head_of(classifier: Classifier, job: Job, names: tuple[str, ...]) -> Head:
    adapter = classifier.adapter
    model = job.clip.model if adapter is None else adapter.get_base_model()
    return other_classes(classifier.head, classifier.text, model, job.clip, names, TEMPLATE)


@pytest.mark.parametrize("method", BY_NAMES)
def test_the_same_names_give_the_same_head(job: Job, method: str) -> None:
    classifier = fit(job, method, **QUICK[method]).classifier
    own, same = classifier.head, head_of(classifier, job, job.task.class_names)
    assert classifier.text is not None
    assert (classifier.text.context is not None) == (method in LEARN_WORDS)
    assert same.tensors.keys() == own.tensors.keys()
    for name, tensor in own.tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor, rtol=1e-5, atol=1e-6)
    features = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    logits = head_of(classifier, job, ("blue", "old_car")).logits(features)
    assert logits.shape == (4, 2)
    torch.testing.assert_close(logits[:, 0], own.logits(features)[:, 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", CLOSED)
def test_some_methods_know_no_other_classes(job: Job, method: str) -> None:
    classifier = fit(job, method, **QUICK[method]).classifier
    with pytest.raises(ConfigError, match="learns the classes that it saw and knows no others"):
        head_of(classifier, job, ("dog", "cat"))


def test_2sfs_knows_others_by_its_first_stage(job: Job) -> None:
    both = fit(job, "2sfs", iterations=5, lr=1e-2, first_stage=0.6)
    assert both.classifier.text is not None
    found = head_of(both.classifier, job, job.task.class_names).tensors["class_features"]
    parameters = dict(job.clip.model.named_parameters())
    for name, value in both.classifier.text.weights.items():
        parameters[name].data = value
    torch.testing.assert_close(found, class_features(job.clip.model, job.task.tokens))
    assert not torch.allclose(found, classes_of(both), atol=1e-4)


@pytest.mark.parametrize("method", ["promptsrc", "layer-norm", "cocoop", "zero-shot", "block-lora"])
def test_what_was_learned_about_names_is_saved(job: Job, tmp_path: Path, method: str) -> None:
    classifier = fit(job, method, **QUICK[method]).classifier
    write_classifier(tmp_path / "kept", classifier, list(job.task.class_names), {}, {})
    read, clip = read_both_towers(tmp_path / "kept")
    again = head_of(read, replace(job, clip=clip), job.task.class_names)
    for name, tensor in classifier.head.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-5, atol=1e-6)


def test_templates_are_averaged_where_no_words_are_learned(job: Job) -> None:
    own = cosine_head(job.written_classes, 1.0)

    def found(*templates: str) -> torch.Tensor:
        head = other_classes(own, TextChange(), job.clip.model, job.clip, job.task.class_names, templates)
        return head.tensors["class_features"]

    one, two = found("a photo of a {}."), found("many {}")
    expected = (one + two) / (one + two).norm(dim=1, keepdim=True)
    both = found("a photo of a {}.", "many {}")
    torch.testing.assert_close(both, expected)
    assert torch.equal(
        both,
        template_features(job.clip.model, job.clip, job.task.class_names, ("a photo of a {}.", "many {}")),
    )


def test_the_mean_of_one_is_that_one(job: Job) -> None:
    model, tokens = job.clip.model, job.task.tokens
    assert torch.equal(mean_features(model, [tokens]), class_features(model, tokens))
    torch.testing.assert_close(mean_features(model, [tokens, tokens]), class_features(model, tokens))
