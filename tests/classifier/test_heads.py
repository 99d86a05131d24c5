"""Heads against their formulas, value by value."""

from __future__ import annotations

import math

import numpy as np
import torch

from blocklora.classifier.heads import HEADS, Head, cosine_head

D, N, K, H = 6, 3, 5, 2


def unit(rows: int, seed: int) -> torch.Tensor:
    values = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


FEATURES, CLASSES = unit(4, 0), unit(N, 1)


def slow_cosines(features: torch.Tensor) -> list[list[float]]:
    return [
        [20.0 * sum(float(a) * float(b) for a, b in zip(f, t, strict=True)) for t in CLASSES]
        for f in features
    ]


def test_cosine() -> None:
    logits = cosine_head(CLASSES, 20.0).logits(FEATURES)
    assert logits.dtype == torch.float64
    np.testing.assert_allclose(logits, slow_cosines(FEATURES), rtol=1e-6)


def test_linear() -> None:
    weight, bias = unit(N, 2), torch.tensor([0.5, -1.0, 2.0])
    logits = Head("linear", {"weight": weight, "bias": bias}).logits(FEATURES)
    for i, f in enumerate(FEATURES):
        for n in range(N):
            slow = sum(float(f[d]) * float(weight[n, d]) for d in range(D)) + float(bias[n])
            assert math.isclose(logits[i, n], slow, rel_tol=1e-9)


def test_cache_is_the_formula_and_with_alpha_0_zero_shot() -> None:
    keys, labels = unit(K, 3), [0, 1, 2, 2, 0]
    values = torch.eye(N)[labels]
    tensors = {"class_features": CLASSES, "keys": keys, "values": values}
    logits = Head("cache", tensors, {"scale": 20.0, "alpha": 1.5, "beta": 4.0}).logits(FEATURES)
    slow = slow_cosines(FEATURES)
    for i, f in enumerate(FEATURES):
        for k, label in enumerate(labels):
            cosine = sum(float(f[d]) * float(keys[k, d]) for d in range(D))
            slow[i][label] += 1.5 * math.exp(-4.0 * (1 - cosine))
    np.testing.assert_allclose(logits, slow, rtol=1e-6)
    without = Head("cache", tensors, {"scale": 20.0, "alpha": 0.0, "beta": 4.0}).logits(FEATURES)
    torch.testing.assert_close(without, cosine_head(CLASSES, 20.0).logits(FEATURES))


def test_bottleneck_is_the_formula_and_with_ratio_0_zero_shot() -> None:
    down, up = unit(H, 4), unit(H, 5).T
    tensors = {"class_features": CLASSES, "down": down, "up": up}
    logits = Head("bottleneck", tensors, {"scale": 20.0, "ratio": 0.3}).logits(FEATURES)
    for i, f in enumerate(FEATURES.double().numpy()):
        hidden = np.maximum(down.double().numpy() @ f, 0)
        mixed = 0.3 * np.maximum(up.double().numpy() @ hidden, 0) + 0.7 * f
        slow = 20.0 * CLASSES.double().numpy() @ (mixed / np.sqrt((mixed**2).sum()))
        np.testing.assert_allclose(logits[i], slow, rtol=1e-9)
    without = Head("bottleneck", tensors, {"scale": 20.0, "ratio": 0.0}).logits(FEATURES)
    torch.testing.assert_close(without, cosine_head(CLASSES, 20.0).logits(FEATURES), rtol=1e-7, atol=1e-6)


def test_many_rows_are_one_by_one_the_same() -> None:
    head = cosine_head(CLASSES, 20.0)
    many = FEATURES.repeat(600, 1)
    torch.testing.assert_close(head.logits(many)[2000:2004], head.logits(FEATURES))
    assert set(HEADS) >= {"cosine", "linear", "cache", "bottleneck"}
