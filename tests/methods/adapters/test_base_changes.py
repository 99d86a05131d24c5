"""Adapters that change the base model's own weights do it on a copy: zero-shot and frozen features stay the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_task import QUICK, fit_quickly, make_job, make_task, train_pixels

from blocklora.classifier import FeatureStore, encode, read_both_towers, read_classifier, write_classifier
from blocklora.clip import Clip, class_features, image_features, load_clip
from blocklora.core.errors import ConfigError
from blocklora.methods import fit_config
from blocklora.methods.frozen.features import frozen_features

KINDS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "bias": {"bias": "all"},
    "plain": {},
}


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("kind", KINDS)
def test_zero_shot_and_frozen_features_are_those_of_the_untouched_model(
    clip: Clip, clip_folder: Path, tmp_path: Path, kind: str
) -> None:
    task, untouched = make_task(clip), load_clip(str(clip_folder))
    images = [(example.image, example.source) for example in task.train]
    expected = image_features(untouched.model, train_pixels(make_job(task, untouched)))
    expected_classes = class_features(untouched.model, task.tokens)
    store = FeatureStore(tmp_path / "features")
    config = json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]} | KINDS[kind])
    settings = QUICK["peft"] | {"peft_config": config}
    classifier = fit_quickly("peft", task, clip, job={"store": store}, **settings).classifier
    compute = make_job(task, clip).compute
    both = encode(classifier, images, compute, store=store, zero_shot=True).features
    torch.testing.assert_close(both[:, 1], expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both[:, 0], expected, atol=1e-4)
    assert torch.equal(classifier.zero_shot_features, expected_classes)
    frozen = frozen_features(make_job(task, clip, store=store), task.train)[0]
    assert len(list((tmp_path / "features").iterdir())) == 1  # what the adapter's run left there
    torch.testing.assert_close(frozen, expected, rtol=1e-5, atol=1e-6)
    probe = fit_quickly("linear-probe", task, clip, job={"store": store}, c=10.0).classifier
    alone = fit_quickly("linear-probe", make_task(untouched), untouched, c=10.0).classifier
    torch.testing.assert_close(probe.head.tensors, alone.head.tensors, rtol=1e-3, atol=1e-4)

    write_classifier(tmp_path / "kept", classifier, [0, 1, 2], {}, {})
    for loaded in (read_classifier(tmp_path / "kept")[0], read_both_towers(tmp_path / "kept")[0]):
        again = encode(loaded, images, compute, zero_shot=True).features
        np.testing.assert_array_equal(loaded.logits(again[:, 0]), classifier.logits(both[:, 0]))
        torch.testing.assert_close(again[:, 1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"init_lora_weights": "eva"}, "eva"),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, "needs a pass over training data"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "corda", "corda_config": {}}, "needs a pass over training data"),
        ({"init_lora_weights": "lora_ga"}, "needs a pass over training data"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "loftq"),
    ],
)
def test_what_cannot_be_made_from_the_base_and_the_file_is_refused_beforehand(
    more: dict[str, Any], message: str
) -> None:
    config = json.dumps({"peft_type": "LORA", "r": 2} | more)
    with pytest.raises(ConfigError, match=rf"--peft-config: .*{message}"):
        fit_config(method="peft", peft_config=config, device="cpu")
