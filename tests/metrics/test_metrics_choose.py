from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics import Winner, choose_candidate


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_accuracy_comes_first_then_log_loss(seed, n_images, n_candidates):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n_images)
    logits = rng.normal(size=(n_candidates, n_images, 3))
    keys = []
    for scores in logits:
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        keys.append((-(scores.argmax(axis=1) == labels).mean(), log_loss(labels, shares, labels=range(3))))
    best = min(range(n_candidates), key=keys.__getitem__)
    found = choose_candidate(iter(logits), labels)
    assert (found.index, found.candidates) == (best, n_candidates)
    assert (-found.accuracy, found.log_loss) == pytest.approx(keys[best])


def test_the_first_of_equals_wins():
    logits = np.array([[1.0, 0.0]])
    assert choose_candidate([logits, logits, logits + 1e-12], [0]).index == 0


def test_candidates_that_are_all_correct_are_told_apart_by_their_probabilities():
    """A linear probe with the strongest penalty is as accurate as any and gives every class the same probability."""
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(5, 16)), np.repeat(np.arange(5), 8)
    features = centres[labels] + 0.1 * rng.normal(size=(40, 16))
    val = centres[labels] + 0.1 * rng.normal(size=(40, 16))
    probes = [LogisticRegression(C=c, max_iter=1000).fit(features, labels) for c in np.logspace(-6, 2, 9)]
    assert probes[0].score(val, labels) == 1.0
    found = choose_candidate((probe.decision_function(val) for probe in probes), labels)
    assert found.index == 8
    assert found.log_loss < 0.1


def test_nothing_to_choose_from_or_by_is_refused():
    with pytest.raises(ConfigError, match="no candidate to choose from"):
        choose_candidate([], [0])
    with pytest.raises(DataError, match="no image to choose a candidate by"):
        choose_candidate([np.empty((0, 3))], [])
    with pytest.raises(DataError, match="not finite, in row 0"):
        choose_candidate([[[0.0, np.inf]]], [0])


def test_one_candidate_wins():
    assert choose_candidate([[[0.0, 0.0]]], [1]) == Winner(0, 1, 0.0, pytest.approx(np.log(2)))
