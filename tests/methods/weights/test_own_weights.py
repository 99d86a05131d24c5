"""LayerNorm tuning and full fine-tuning, against plain torch on a copy of the model."""

from __future__ import annotations

import pytest
import torch
from plain_training import is_layer_norm, train_a_copy
from small_task import classes_of, fit, train_pixels

from blocklora.clip import class_features, image_features
from blocklora.methods import Job
from blocklora.methods.weights.own_weights import layer_norms


@pytest.mark.parametrize(("method", "decay"), [("layer-norm", 1e-2), ("full", 0.1)])
def test_trained_weights_are_those_of_plain_torch(job: Job, method: str, decay: float) -> None:
    clip, values = job.clip, train_pixels(job)
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}

    def is_trained(name: str) -> bool:
        return is_layer_norm(name) if method == "layer-norm" else name != "logit_scale"

    model = train_a_copy(job, is_trained, steps=3, lr=1e-3, decay=decay)
    fitted = fit(job, method, iterations=3, lr=1e-3, augment="none")
    ours = fitted.classifier.image_features(values)
    torch.testing.assert_close(ours, image_features(model, values), rtol=1e-3, atol=2e-4)
    expected = class_features(model, job.task.tokens)
    torch.testing.assert_close(classes_of(fitted), expected, rtol=1e-3, atol=2e-4)
    assert not torch.allclose(ours, image_features(clip.model, values), atol=2e-3)
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    trained = [p.numel() for name, p in clip.model.named_parameters() if is_trained(name)]
    assert fitted.trainable_parameters == sum(trained)
    assert fitted.choices["kept step"].value == 3


def test_layer_norms_are_those_of_both_towers(job: Job) -> None:
    # Width 32; in the image tower one before, one behind, two in each of two layers; in the text tower one less.
    found = layer_norms(job.clip.model)
    assert sum(parameter.numel() for parameter in found.values()) == (6 + 5) * 2 * 32
    assert found.keys() == {name for name, _ in job.clip.model.named_parameters() if is_layer_norm(name)}
