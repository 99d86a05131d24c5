"""A head that mixes others: the mean of their probabilities, of adapted and of base features; on disk and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_task import CPU, QUICK, fit, train_pixels

from blocklora.classifier import (
    Classifier,
    FeatureStore,
    Head,
    Member,
    encode,
    mixture_head,
    other_classes,
    read_classifier,
    write_classifier,
)
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.methods import Job

COSINE = Head("cosine", {"class_features": torch.eye(3, 4)}, {"scale": 10.0})
LINEAR = Head("linear", {"weight": torch.full((3, 4), 0.5), "bias": torch.arange(3.0)})
BOTH = (Member(COSINE, 0.25, 2.0, base=False), Member(LINEAR, 0.75, 0.5, base=True))


@pytest.fixture
def mixed(job: Job) -> Classifier:
    """Block-LoRA and GDA in one classifier."""
    found = fit(job, "block-lora", **QUICK["block-lora"]).classifier
    linear = fit(job, "gda", alpha=0.1).classifier.head
    members = [Member(found.head, 0.4, 1.5, base=False), Member(linear, 0.6, 0.7, base=True)]
    return replace(found, head=mixture_head(members), text=None)


def test_its_probabilities_are_the_weighted_mean() -> None:
    features = torch.nn.functional.normalize(torch.randn(5, 2, 4), dim=-1)
    one = (COSINE.logits(features[:, 0]) / 2.0).softmax(dim=1)
    other = (LINEAR.logits(features[:, 1]) / 0.5).softmax(dim=1)
    found = mixture_head(BOTH).logits(features).softmax(dim=1)
    np.testing.assert_allclose(found, 0.25 * one + 0.75 * other, rtol=1e-9)
    alike = mixture_head(BOTH).logits(features[:, 0])
    np.testing.assert_array_equal(alike, mixture_head(BOTH).logits(features[:, [0, 0]]))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (BOTH[:1], "1 members; expected 2 to 3"),
        (BOTH * 2, "4 members"),
        ((BOTH[0], replace(BOTH[1], weight=0.7)), "sum 1"),
        ((BOTH[0], replace(BOTH[1], weight=-0.75)), "weight of member 1"),
        ((BOTH[0], replace(BOTH[1], temperature=0.0)), "temperature of member 1"),
        ((BOTH[0], replace(BOTH[1], head=mixture_head(BOTH))), "kind mixture"),
        (
            (BOTH[0], replace(BOTH[1], head=Head("linear", {}))),
            "member 1 of the mixture: .*'bias' is missing",
        ),
    ],
)
def test_what_is_no_mixture_is_refused(members: tuple[Member, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mixture_head(members).check(3, 4)
    mixture_head(BOTH).check(3, 4)
    with pytest.raises(ValueError, match="has no members"):
        replace(COSINE, members=BOTH).check(3, 4)


def test_it_reads_both_towers_and_measures_like_it_predicts(
    mixed: Classifier, job: Job, tmp_path: Path
) -> None:
    images = [(example.image, example.source) for example in job.task.train]
    values, compute = train_pixels(job), Compute(CPU, "fp32")
    assert mixed.reads_both
    features = mixed.image_features(values)
    assert features.shape == (len(images), 2, 16)
    expected = mixed.probabilities(features)
    store = FeatureStore(tmp_path / "store")
    for zero_shot in (False, True):
        for kept in (store, store):
            found = encode(mixed, images, compute, store=kept, zero_shot=zero_shot)
            np.testing.assert_allclose(mixed.probabilities(found.features), expected, atol=1e-6)
            torch.testing.assert_close(found.features[:, 1], mixed.zero_shot_image_features(values))


def test_threads_get_the_answers_of_one(mixed: Classifier, job: Job) -> None:
    values = train_pixels(job)
    expected = mixed.probabilities(mixed.image_features(values))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: mixed.probabilities(mixed.image_features(values)), range(8)))
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def write(folder: Path, classifier: Classifier) -> Path:
    write_classifier(folder, classifier, ["r", "g", "b"], {}, {})
    return folder


def test_it_comes_back_from_disk(mixed: Classifier, job: Job, tmp_path: Path) -> None:
    loaded, record = read_classifier(write(tmp_path / "kept", mixed))
    values = train_pixels(job)
    np.testing.assert_array_equal(
        loaded.probabilities(loaded.image_features(values)), mixed.probabilities(mixed.image_features(values))
    )
    assert [member.kind for member in record.head.members] == ["cosine", "linear"]


def _without_a_tensor(folder: Path) -> None:
    path = folder / "class_features.safetensors"
    tensors = load_file(path)
    del tensors["head/1/bias"]
    save_file(tensors, path)


def _with_another_tensor(folder: Path) -> None:
    path = folder / "class_features.safetensors"
    save_file(load_file(path) | {"head/2/bias": torch.zeros(3)}, path)


def _of(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "classifier.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        record["head"]["members"][1] |= changes
        path.write_text(json.dumps(record), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_without_a_tensor, "'bias' is missing"),
        (_with_another_tensor, "head/2/bias|'2/bias' belongs to no head"),
        (_of(weight=0.5), "sum 1"),
        (_of(kind="cosine"), "member 1 of the mixture"),
        (_of(kind="strange"), "unknown kind 'strange'"),
        (_of(colour=1), "damaged"),
    ],
)
def test_damage_is_named(
    mixed: Classifier, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = write(tmp_path / "kept", mixed)
    spoil(folder)
    with pytest.raises(RunError, match=words):
        read_classifier(folder)


def test_it_knows_no_other_classes(mixed: Classifier, job: Job) -> None:
    with pytest.raises(ConfigError, match="knows no others"):
        other_classes(mixed.head, mixed.text, job.clip.model, job.clip, ["cat"], ["a {}."])
