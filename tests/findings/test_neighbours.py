"""The nearest images, by blocks."""

from __future__ import annotations

import numpy as np
import pytest

from blocklora.findings import neighbours
from blocklora.findings.neighbours import nearest


def unit(m: int, d: int = 8, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(m, d)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("block_bytes", [1, 4 * 37 * 5, 1 << 20])
def test_they_are_those_of_the_whole_matrix(monkeypatch, block_bytes):
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", block_bytes)
    features = unit(37)
    cosines = features @ features.T
    np.fill_diagonal(cosines, -np.inf)
    found = nearest(features, 6)
    order = np.argsort(-cosines, axis=1)[:, :6]
    assert (found.places == order).all()
    np.testing.assert_allclose(
        found.cosines, np.take_along_axis(cosines, order, axis=1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("m", "k"), [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_there_are_no_more_than_there_are_others(m, k):
    found = nearest(unit(m), 10)
    assert found.places.shape == found.cosines.shape == (m, k)
    assert all(place != row for row, places in enumerate(found.places) for place in places)
