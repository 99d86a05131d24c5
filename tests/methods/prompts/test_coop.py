"""CoOp, KgCoOp and ProGrad, against plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from blocklora.clip import Clip, class_features
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, Fitted, Task, make_settings
from blocklora.methods.frozen.on_features import FeatureBatches, labels_of, picture_features
from blocklora.methods.prompts.learned_prompts import epochs_of, start_context
from blocklora.methods.prompts.prograd import aligned

Fit = Callable[..., Fitted]
Tasks = Callable[..., Task]
CPU = torch.device("cpu")


def test_the_embedded_words_are_zero_shot(clip: Clip, task_of: Tasks) -> None:
    task = task_of(clip)  # "a photo of a red."
    prompts, start = start_context(task, clip, "a photo of a", 16, seed=0)
    assert start.shape == (4, 32)
    torch.testing.assert_close(
        prompts.features(start), class_features(clip.model, task.tokens), rtol=1e-5, atol=1e-6
    )


def test_coop_with_the_words_as_frozen_context_is_zero_shot(
    clip: Clip, task_of: Tasks, fit_method: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocklora.training.minimise._WARM_UP_LR", 0.0)
    task = task_of(clip)
    fitted = fit_method("coop", task, clip, words="a photo of a", epochs=1)
    zero_shot = fit_method("zero-shot", task, clip).class_features
    torch.testing.assert_close(fitted.class_features, zero_shot, rtol=1e-5, atol=1e-6)


def test_random_contexts(clip: Clip, task_of: Tasks) -> None:
    task = task_of(clip)
    prompts, start = start_context(task, clip, "", 16, seed=3)
    assert start.shape == (16, 32)
    assert 0.015 < float(start.std()) < 0.025
    assert torch.equal(start, start_context(task, clip, "", 16, seed=3)[1])
    assert not torch.equal(start, start_context(task, clip, "", 16, seed=4)[1])
    # All but the vectors is the sentence "name." with the start and end of text around it.
    name = clip.tokenizer("green.")["input_ids"]
    row = prompts.tokens[1].tolist()
    assert row[0] == name[0]
    assert row[17 : 17 + len(name) - 1] == name[1:]
    with pytest.raises(
        ConfigError, match="n_context '22': expected at most 21, for the text tower reads 24 tokens"
    ):
        start_context(task, clip, "", 22, seed=0)


def slow(clip: Clip, task: Task, weight: float, steps: int, lr: float) -> torch.Tensor:
    """KgCoOp in plain torch, from "a photo of a": the whole sentence by transformers, with other embedded words."""
    table = clip.model.text_model.embeddings.token_embedding.weight
    context = torch.nn.Parameter(table[task.tokens[0, 1:5]].clone())
    written = class_features(clip.model, task.tokens)
    images = picture_features(task.train, clip, Compute(CPU, "fp32"))
    batches = FeatureBatches(images, labels_of(task.train), batch_size=4, seed=0)
    optimizer = torch.optim.SGD([context], lr=lr, momentum=0.9, weight_decay=5e-4)

    def classes() -> torch.Tensor:
        rows = []
        for n in range(3):
            embedded = torch.cat([table[task.tokens[n, :1]], context, table[task.tokens[n, 5:]]])
            handle = clip.model.text_model.embeddings.token_embedding.register_forward_hook(
                lambda module, inputs, output, embedded=embedded: embedded[None]
            )
            rows.append(clip.model.get_text_features(input_ids=task.tokens[n : n + 1]).pooler_output[0])
            handle.remove()
        return F.normalize(torch.stack(rows), dim=-1)

    for step in range(steps):
        inputs, labels = batches.batch(step)
        epoch = step // 2
        rate = 1e-5 if epoch == 0 else lr * (1 + math.cos(math.pi * (epoch - 1) / (steps // 2))) / 2
        optimizer.param_groups[0]["lr"] = rate
        found = classes()
        logits = clip.model.logit_scale.exp() * inputs @ found.T
        loss = F.cross_entropy(logits, labels) + weight * (1 - F.cosine_similarity(found, written).mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classes().detach()


@pytest.mark.parametrize(("method", "weight"), [("coop", 0.0), ("kgcoop", 8.0)])
def test_learning_is_sgd_on_the_formula(
    clip: Clip, task_of: Tasks, fit_method: Fit, method: str, weight: float
) -> None:
    task = task_of(clip)
    more = {"words": "a photo of a"} if method == "coop" else {}
    fitted = fit_method(method, task, clip, epochs=3, lr=0.1, batch_size=4, augment="none", **more)
    assert fitted.trainable_parameters == 4 * 32
    expected = slow(clip, task, weight, 6, 0.1)
    torch.testing.assert_close(fitted.class_features, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(expected, class_features(clip.model, task.tokens), atol=1e-3)


@pytest.mark.parametrize("method", ["kgcoop", "prograd"])
def test_weight_0_is_coop(clip: Clip, task_of: Tasks, fit_method: Fit, method: str) -> None:
    task = task_of(clip)
    same = {"words": "a photo of a", "epochs": 2, "batch_size": 4, "lr": 0.1}
    one = fit_method("coop", task, clip, **same)
    other = fit_method(method, task, clip, weight=0.0, **same)
    torch.testing.assert_close(other.class_features, one.class_features, rtol=1e-4, atol=1e-5)
    with_weight = fit_method(method, task, clip, **same)
    assert not torch.allclose(with_weight.class_features, one.class_features, atol=1e-5)


@given(st.integers(0, 10**6), st.floats(0, 2))
def test_aligned_gradients(seed: int, weight: float) -> None:
    gradient, general = torch.randn(
        2, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    found = aligned(gradient, general, weight)
    dot = sum(float(a) * float(b) for a, b in zip(gradient.flatten(), general.flatten(), strict=True))
    if dot >= 0:
        assert torch.equal(found, gradient)
    else:
        along = dot / float((general**2).sum())
        torch.testing.assert_close(found, gradient - weight * along * general)
        if weight == 1.0:
            assert abs(float((found * general).sum())) < 1e-9
    assert torch.equal(aligned(gradient, torch.zeros_like(general), weight), gradient)


def test_published_settings(clip: Clip, task_of: Tasks) -> None:
    assert [epochs_of(task_of(clip, shots=shots), None) for shots in (1, 2, 4, 8)] == [50, 100, 100, 200]
    assert make_settings("kgcoop", METHODS["kgcoop"], {}).epochs == 100
    assert make_settings("kgcoop", METHODS["kgcoop"], {}).batch_size == 128
    with pytest.raises(ConfigError, match=r"weight '-1\.0': expected 0 or a positive number"):
        make_settings("prograd", METHODS["prograd"], {"weight": -1.0})
