"""One classifier, asked by many threads: nothing in it, or in the model, changes, and the answers are the same bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from small_task import QUICK, classes_of, fit_quickly, make_images, make_task
from torch import Tensor

from blocklora.classifier import Classifier, encode
from blocklora.clip import Clip, load_clip
from blocklora.core.device import Compute

CPU = torch.device("cpu")
DORA = '{"peft_type": "LORA", "r": 2, "use_dora": true, "lora_dropout": 0.5}'
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "lean adapter": ("block-lora", {}),
    "plain adapter": ("block-lora", {"engine": "plain"}),
    "dora": ("peft", {"peft_config": DORA}),
    "full": ("full", {}),
    "maple": ("maple", {}),
    "cocoop": ("cocoop", {}),
}


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())
    }


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(after[name], value) for name, value in before.items()
    )


@pytest.fixture(scope="module")
def base(clip_folder: Any) -> Clip:
    return load_clip(str(clip_folder))


@pytest.mark.parametrize("way", WAYS)
def test_threads_get_the_answers_of_one(base: Clip, way: str) -> None:
    method, settings = WAYS[way]
    classifier = fit_quickly(method, make_task(base), base, **(QUICK[method] | settings)).classifier
    images = [(example.image, example.source) for example in make_images("test", 4, 3)]
    compute = Compute(CPU, "fp32")

    def asked(number: int) -> list[Any]:
        part = images[number % 4 :: 4]
        if number % 2:  # zero-shot beside it
            features = encode(classifier, part, compute, zero_shot=True).features
            return [classifier.probabilities(features[:, 0]), features[:, 1].numpy()]
        features = encode(classifier, part, compute).features
        return [classifier.probabilities(features), features.numpy()]

    models = [base.model] if classifier.adapter is None else [base.model, classifier.adapter]
    before = [state(model) for model in models]
    alone = [asked(number) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(asked, range(16)))
    for one, other in zip(alone, together, strict=True):
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert all(same(then, state(model)) for then, model in zip(before, models, strict=True))
    plain = encode(fit_quickly("zero-shot", make_task(base), base).classifier, images, compute).features
    beside = encode(classifier, images, compute, zero_shot=True).features
    torch.testing.assert_close(beside[:, 1], plain, rtol=1e-5, atol=1e-6)  # whatever the engine
    assert not torch.equal(beside[:, 0], beside[:, 1]) or method == "cocoop"


def test_another_temperature_is_another_classifier(base: Clip) -> None:
    classifier = fit_quickly("zero-shot", make_task(base), base).classifier
    warm = classifier.with_temperature(4.0)
    features = classifier.zero_shot_features
    assert classifier.temperature == 1.0
    logits = classifier.logits(features)
    np.testing.assert_allclose(warm.probabilities(features), (logits / 4).softmax(dim=1))
    assert warm.probabilities(features[:0]).shape == (0, 3)
    assert warm.zero_shot_labels(features).tolist() == [0, 1, 2]


def test_other_classes_stand_on_the_same_towers(base: Clip) -> None:
    fitted = fit_quickly("maple", make_task(base), base, **QUICK["maple"])
    classifier = fitted.classifier.of_other_classes(
        ("a", "b"), ("an a", "a b"), fitted.classifier.head, classes_of(fitted)[:2]
    )
    assert isinstance(classifier, Classifier)
    assert (classifier.class_names, classifier.prompts) == (("a", "b"), ("an a", "a b"))
    assert classifier.image is fitted.classifier.image
    assert not classifier.is_base
