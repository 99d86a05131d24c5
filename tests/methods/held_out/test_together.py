"""What was said of held-out images stays with the classifier, whatever tower it has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from small_task import make_task

from blocklora.classifier import chance_known, class_sets, encode
from blocklora.clip import Clip
from blocklora.methods import Fit, Prepared, fit_classifier, fit_config
from blocklora.methods.auto import auto
from blocklora.methods.auto import plan as plans
from blocklora.methods.auto.plan import AutoPlan
from blocklora.metrics import known_p_values
from blocklora.metrics.conformal import strangeness

ADAPTED_ALONE = AutoPlan(
    frozen=(),
    frozen_seconds=1e9,
    adapters=({"lr": 1e-2, "towers": "both", "layers": "all"},),
    steps=2,
    left_out={},
)


def fitted(clip: Clip, method: str, **more: object) -> Fit:
    task = make_task(clip, shots=4)
    config = fit_config(model=clip.model_id, method=method, device="cpu", **more)
    return fit_classifier(Prepared(clip, task, (), ()), config)


@pytest.mark.parametrize("method", ["auto", "block-lora-gda"])
def test_an_adapted_winner_judges_itself_by_the_fits_of_the_folds(
    method: str, loaded_clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_measured", lambda *_: None)
    monkeypatch.setattr(plans, "decide", lambda *_: ADAPTED_ALONE)
    heard: list[np.ndarray] = []
    real = auto.scores

    def remembering(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        heard.append(found[1].logits)
        return found

    monkeypatch.setattr(auto, "scores", remembering)
    more = {} if method == "auto" else {"iterations": 2, "lr": 1e-2, "folds": 2}
    fit = fitted(loaded_clip, method, **more)
    classifier, evidence = fit.classifier, fit.classifier.evidence
    assert not classifier.is_base
    assert evidence.held_out is not None
    assert evidence.unknown is None
    held_out = evidence.held_out
    assert (held_out.how, held_out.heads, len(held_out.labels)) == ("leave-one-out", (), 12)
    if method == "auto":  # two cuts of four folds: the mean of what was said of each image
        of_training = fit.result.out_of_fold
        assert of_training is not None
        rows = [of_training.logits[of_training.images == image].mean(axis=0) for image in range(12)]
        expected = strangeness(np.stack(rows))[np.arange(12), held_out.labels]
        np.testing.assert_allclose(held_out.strangeness["lac"], expected)
    images = [(example.image, example.source) for example in make_task(loaded_clip, shots=4).train]
    features = encode(classifier, images, fit.compute).features
    assert class_sets(classifier, features, 0.8).shape == (12, 3)
    top = -softmax(classifier.logits(features).numpy() / classifier.temperature, axis=1).max(axis=1)
    # the top probability alone decides: by ranks, of which ties are the only thing that is rounded
    expected = known_p_values(top, held_out.unlikeness["softmax"])
    np.testing.assert_allclose(chance_known(classifier, features), expected, atol=1 / 13 + 1e-9)


def test_validation_images_come_before(loaded_clip: Clip) -> None:
    task = make_task(loaded_clip, shots=2, n_val=2)
    config = fit_config(
        model=loaded_clip.model_id, method="block-lora-gda", device="cpu", iterations=2, lr=1e-2, folds=2
    )
    evidence = fit_classifier(Prepared(loaded_clip, task, (), ()), config).classifier.evidence
    assert evidence.held_out is not None
    assert (evidence.held_out.how, len(evidence.held_out.labels)) == ("validation", 6)
    assert evidence.unknown is not None
