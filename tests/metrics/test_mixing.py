"""Weights of mixtures, against a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from blocklora.core.errors import DataError
from blocklora.metrics import mixture_weights


def loss(weights: np.ndarray, of_truth: np.ndarray) -> float:
    return float(-np.log(weights @ of_truth).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 40))
def test_weights_are_as_good_as_those_of_a_general_optimiser(seed: int, members: int, images: int) -> None:
    of_truth = np.random.default_rng(seed).uniform(0.01, 1.0, (members, images))
    weights = mixture_weights(of_truth)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1.0)
    slow = minimize(
        lambda x: loss(np.exp(x) / np.exp(x).sum(), of_truth), np.zeros(members), method="Nelder-Mead"
    )
    assert loss(weights, of_truth) <= slow.fun + 1e-3


def test_a_member_that_is_always_right_gets_all() -> None:
    assert mixture_weights([[1.0, 1.0], [0.0, 0.1]])[0] == pytest.approx(1.0, abs=1e-3)


def test_two_alike_share() -> None:
    np.testing.assert_allclose(mixture_weights([[0.2, 0.9], [0.2, 0.9]]), [0.5, 0.5])


@pytest.mark.parametrize("wrong", [[[1.2]], [0.5], [[]], [[-0.1]]])
def test_what_is_no_probability_is_refused(wrong: list[float]) -> None:
    with pytest.raises(DataError, match=r"expected \(K, N\) probabilities"):
        mixture_weights(wrong)
