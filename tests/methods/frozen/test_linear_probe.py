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


def test_c_is_chosen_on_validation_images_or_fixed(clip: Clip, job: Job) -> None:
    chosen = fit(replace(job, task=make_task(clip, n_val=2)), "linear-probe").choices["C"]
    assert (chosen.by, chosen.n_images, chosen.candidates) == ("validation", 6, 25)
    fixed = fit(job, "linear-probe").choices["C"]
    assert fixed == Choice(31.6, "fixed", "there are no validation images to choose it by")
    assert fit(job, "linear-probe", c=2.0).choices["C"] == Choice(2.0, "fixed", "given")
    with pytest.raises(ConfigError, match=r"c '-1\.0': expected a positive number"):
        fit(job, "linear-probe", c=-1.0)
