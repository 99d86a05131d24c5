"""Things that are no class: the scores by their formulas, the share of false alarms, and classes that play them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.metrics import known_p_values, study_unknown, together, unlikeness


def test_scores_are_those_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    logits, cosines, nearest = rng.normal(size=(8, 4)), rng.normal(size=(8, 4)), rng.normal(size=8)
    found = unlikeness(logits, cosines, nearest, 2.0)
    for m in range(8):
        terms = [np.exp(z / 2) for z in logits[m]]
        assert found["softmax"][m] == pytest.approx(-max(terms) / sum(terms))
        assert found["energy"][m] == pytest.approx(-np.log(sum(terms)))
        similar = [np.exp(z) for z in cosines[m]]
        assert found["mcm"][m] == pytest.approx(-max(similar) / sum(similar))
        assert found["nearest"][m] == -nearest[m]
    assert "mcm" not in unlikeness(logits, None, nearest, 2.0)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=12), st.sampled_from([0.1, 0.2, 0.4]))
@settings(max_examples=40, deadline=None)
def test_a_p_value_counts_those_as_large(known: list[float], score: float) -> None:
    expected = (1 + sum(k >= score for k in known)) / (len(known) + 1)
    assert known_p_values([score], known)[0] == pytest.approx(expected)


def test_false_alarms_are_as_few_as_asked_for() -> None:
    rng, alarms = np.random.default_rng(0), []
    for _ in range(200):
        known = {name: rng.normal(size=60) for name in ("softmax", "nearest")}
        new = {name: rng.normal(size=100) for name in ("softmax", "nearest")}
        values = known_p_values(together(new, known), together(known, known))
        alarms.append((values <= 0.1).mean())
    assert 0.07 < np.mean(alarms) < 0.115


def scene(n_classes: int = 5, spread: float = 0.1) -> tuple[Any, ...]:
    """Held-out images whose logits and neighbours know their class: logits, cosines, nearest, labels."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(n_classes), 30)
    own = np.eye(n_classes)[labels]
    return (
        5 * own + rng.normal(size=own.shape),
        own + rng.normal(size=own.shape),
        0.7 * own + rng.normal(size=own.shape) * spread,
        labels,
    )


def test_classes_that_play_the_unknown_are_found() -> None:
    found = study_unknown(*scene(), 1.0)
    assert found is not None
    assert (found.groups, found.n_images) == (5, 150)
    assert found.auroc["nearest"] > 0.95
    assert found.auroc["together"] > found.auroc["mcm"]
    assert found.caught > 0.5


def test_what_says_nothing_is_guessing() -> None:
    _, cosines, nearest, labels = scene()
    rng = np.random.default_rng(2)
    nothing = rng.normal(size=cosines.shape)
    found = study_unknown(nothing, nothing, rng.normal(size=nearest.shape), labels, 1.0)
    assert found is not None
    assert all(0.4 < value < 0.6 for value in found.auroc.values())


def test_two_classes_or_images_of_few_classes_are_not_studied() -> None:
    logits, cosines, nearest, labels = scene(2)
    assert study_unknown(logits, cosines, nearest, labels, 1.0) is None
    logits, cosines, nearest, labels = scene(5)
    first = labels == 0
    assert study_unknown(logits[first], cosines[first], nearest[first], labels[first], 1.0) is None
