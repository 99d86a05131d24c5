"""The linear probe against penalised logistic regression by scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from small_task import fit, make_task

from blocklora.clip import Clip
from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError
from blocklora.methods import Job, Task
from blocklora.methods.answers import CROSS_VALIDATED
from blocklora.methods.frozen.features import frozen_features, labels_of


def test_it_is_penalised_logistic_regression(clip: Clip, job: Job) -> None:
    job, c = replace(job, task=make_task(clip, shots=3)), 50.0
    head = fit(job, "linear-probe", c=c).classifier.head
    features = frozen_features(job, job.task.train)[0].double().numpy()
    labels = labels_of(job.task.train).numpy()

    def loss(flat: np.ndarray) -> float:
        weight, bias = flat[: 3 * 16].reshape(3, 16), flat[3 * 16 :]
        logits = features @ weight.T + bias
        each = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
        return float(c * each.sum() + 0.5 * (weight**2).sum())

    found = minimize(loss, np.zeros(51), method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 10**6})
    ours = np.concatenate([head.tensors[name].double().numpy().ravel() for name in ("weight", "bias")])
    assert loss(ours) <= found.fun * (1 + 1e-4)


def test_two_classes_give_two_logits(job: Job) -> None:
    task = job.task
    two = Task(task.class_names[:2], task.prompts[:2], task.tokens[:2], task.train[:4], flip=False)
    job = replace(job, task=two)
    logits = fit(job, "linear-probe", c=1e4).classifier.logits(frozen_features(job, two.train)[0])
    assert logits.shape == (4, 2)
    assert logits.argmax(dim=1).tolist() == [0, 0, 1, 1]


def test_c_is_chosen_on_validation_images(clip: Clip, job: Job) -> None:
    fitted = fit(replace(job, task=make_task(clip, n_val=2)), "linear-probe")
    chosen = fitted.choices["c"]
    assert (chosen.by, chosen.n_images, chosen.candidates, chosen.reason) == ("validation", 6, 25, "")
    assert fitted.held_out is None


def test_without_validation_images_c_is_cross_validated(clip: Clip, job: Job) -> None:
    job = replace(job, task=make_task(clip, shots=3))
    fitted = fit(job, "linear-probe")
    chosen = fitted.choices["c"]
    assert (chosen.by, chosen.n_images, chosen.candidates) == ("validation", 9, 25)
    assert chosen.reason == CROSS_VALIDATED
    assert fitted.held_out is not None
    assert fitted.held_out.labels.tolist() == labels_of(job.task.train).tolist()
    # Three parts: the n-th image of every class is judged by a probe of the other six.
    features = frozen_features(job, job.task.train)[0].double()
    for part in range(3):
        others = tuple(example for place, example in enumerate(job.task.train) if place % 3 != part)
        less = replace(job, task=replace(job.task, train=others))
        logits = fit(less, "linear-probe", c=chosen.value).classifier.logits(features[part::3])
        np.testing.assert_allclose(fitted.held_out.logits[part::3], logits, rtol=1e-4, atol=1e-5)


def test_c_is_fixed_where_it_is_given_or_nothing_chooses(clip: Clip, job: Job) -> None:
    assert fit(job, "linear-probe", c=2.0).choices["c"] == Choice(2.0, "fixed", "given")
    one = fit(replace(job, task=make_task(clip, shots=1)), "linear-probe")
    assert (one.choices["c"].value, one.choices["c"].by) == (31.6, "fixed")
    assert one.held_out is None
    with pytest.raises(ConfigError, match=r"c '-1\.0': expected a positive number"):
        fit(job, "linear-probe", c=-1.0)
