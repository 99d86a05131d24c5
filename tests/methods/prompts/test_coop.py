"""CoOp and KgCoOp, against plain torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from small_task import classes_of, fit

from blocklora.clip import class_features
from blocklora.methods import Job
from blocklora.methods.frozen.batches import training_batches
from blocklora.methods.frozen.features import frozen_features


def test_with_the_words_as_frozen_context_it_is_zero_shot(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocklora.core.schedules._WARM_UP_LR", 0.0)
    fitted = fit(job, "coop", words="a photo of a", epochs=1)
    torch.testing.assert_close(classes_of(fitted), job.written_classes, rtol=1e-5, atol=1e-6)


def learn_slowly(job: Job, weight: float, steps: int, lr: float) -> torch.Tensor:
    """KgCoOp in plain torch, from "a photo of a": the whole sentence by transformers, with other embedded words."""
    model, tokens = job.clip.model, job.task.tokens
    table = model.text_model.embeddings.token_embedding.weight
    context = torch.nn.Parameter(table[tokens[0, 1:5]].clone())
    batches = training_batches(job, frozen_features(job, job.task.train), 4)
    optimizer = torch.optim.SGD([context], lr=lr, momentum=0.9, weight_decay=5e-4)

    def classes() -> torch.Tensor:
        rows = []
        for n in range(3):
            embedded = torch.cat([table[tokens[n, :1]], context, table[tokens[n, 5:]]])
            handle = model.text_model.embeddings.token_embedding.register_forward_hook(
                lambda module, inputs, output, embedded=embedded: embedded[None]
            )
            rows.append(model.get_text_features(input_ids=tokens[n : n + 1]).pooler_output[0])
            handle.remove()
        return F.normalize(torch.stack(rows), dim=-1)

    for step in range(steps):
        inputs, labels = batches.batch(step)
        epoch = step // 2
        rate = 1e-5 if epoch == 0 else lr * (1 + math.cos(math.pi * (epoch - 1) / (steps // 2))) / 2
        optimizer.param_groups[0]["lr"] = rate
        found = classes()
        distance = 1 - F.cosine_similarity(found, job.written_classes).mean()
        loss = F.cross_entropy(job.scale * inputs @ found.T, labels) + weight * distance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classes().detach()


@pytest.mark.parametrize(("method", "weight"), [("coop", 0.0), ("kgcoop", 8.0)])
def test_learning_is_sgd_on_the_formula(job: Job, method: str, weight: float) -> None:
    more = {"words": "a photo of a"} if method == "coop" else {}
    fitted = fit(job, method, epochs=3, lr=0.1, batch_size=4, augment="none", **more)
    assert fitted.trainable_parameters == 4 * 32
    expected = learn_slowly(job, weight, 6, 0.1)
    torch.testing.assert_close(classes_of(fitted), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(expected, class_features(job.clip.model, job.task.tokens), atol=1e-3)


@pytest.mark.parametrize("method", ["kgcoop", "prograd"])
def test_weight_0_is_coop(job: Job, method: str) -> None:
    same = {"words": "a photo of a", "epochs": 2, "batch_size": 4, "lr": 0.1}
    one, other = fit(job, "coop", **same), fit(job, method, weight=0.0, **same)
    torch.testing.assert_close(classes_of(other), classes_of(one), rtol=1e-4, atol=1e-5)
    with_weight = fit(job, method, **same)
    assert not torch.allclose(classes_of(with_weight), classes_of(one), atol=1e-5)
