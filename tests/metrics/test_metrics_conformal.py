"""Sets of classes: the formulas, the promise, and mapie on the same scores."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics import (
    CalibrationPart,
    fewest_images,
    guaranteed_coverage,
    prediction_sets,
    strangeness,
)
from blocklora.metrics.conformal import SCORES


def draw(seed: int, n: int, n_classes: int = 5, skill: float = 1.5) -> tuple[Any, Any]:
    """Logits (n, C) that know something of the labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) * 1.5
    logits[np.arange(n), labels] += skill
    return logits, labels


def split(logits: Any, labels: Any, test: Any, score: Any = "lac") -> CalibrationPart:
    known = strangeness(logits, score)[np.arange(len(labels)), labels]
    return CalibrationPart(strangeness(test, score), known, labels)


def slow_scores(row: Any, score: str) -> list[float]:
    """One image's strangeness, word for word; ties go to the first class."""
    shares = softmax(row)
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    found = []
    for c in range(len(row)):
        rank = order.index(c) + 1
        mass = sum(shares[i] for i in order[:rank])
        found.append({"lac": -np.log(shares[c]), "aps": mass, "raps": mass + 0.1 * max(0, rank - 2)}[score])
    return found


@pytest.mark.parametrize("score", SCORES)
def test_strangeness_is_that_of_the_formula(score: Any) -> None:
    logits, _ = draw(0, 20)
    np.testing.assert_allclose(strangeness(logits, score), [slow_scores(row, score) for row in logits])


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
@settings(max_examples=50, deadline=None)
def test_split_sets_are_those_below_the_quantile(seed: int, n: int, coverage: float) -> None:
    logits, labels = draw(seed, n)
    test, _ = draw(seed + 1, 7)
    part = split(logits, labels, test)
    rank = ceil(round((n + 1) * coverage, 9))
    limit = np.inf if rank > n else np.sort(part.calibration)[rank - 1]
    np.testing.assert_array_equal(prediction_sets([part], coverage), part.test <= limit)
    assert prediction_sets([part], coverage).all() == (n < fewest_images(coverage)) or n >= fewest_images(
        coverage
    )


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_cv_plus_counts_each_image_against_its_own_fold(seed: int, n_folds: int) -> None:
    parts = [split(*draw(seed + k, 8), draw(seed + 50 + k, 4)[0]) for k in range(n_folds)]
    n = 8 * n_folds
    expected = [
        [
            sum(int(e < part.test[m, c]) for part in parts for e in part.calibration) < 0.8 * (n + 1)
            for c in range(5)
        ]
        for m in range(4)
    ]
    np.testing.assert_array_equal(prediction_sets(parts, 0.8), expected)


@pytest.mark.parametrize("score", SCORES)
def test_new_images_are_covered_as_promised(score: Any) -> None:
    covered = []
    for seed in range(60):
        logits, labels = draw(2 * seed, 60)
        test, truth = draw(2 * seed + 1, 200)
        sets = prediction_sets([split(logits, labels, test, score)], 0.9)
        covered.append(sets[np.arange(200), truth].mean())
    assert 0.89 < np.mean(covered) < 0.925


def test_by_class_covers_a_class_that_is_hard() -> None:
    hits: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(30):
        logits, labels = draw(2 * seed, 300, 3)
        test, truth = draw(2 * seed + 1, 300, 3)
        logits[labels == 2] -= [0, 0, 2]
        test[truth == 2] -= [0, 0, 2]
        for by_class, found in hits.items():
            sets = prediction_sets([split(logits, labels, test)], 0.9, by_class=by_class)
            found.append(sets[truth == 2, 2].mean())
    assert np.mean(hits[False]) < 0.8
    assert np.mean(hits[True]) > 0.88


def test_classes_of_too_few_images_are_judged_by_all() -> None:
    logits, labels = draw(0, 60, 3)
    labels[labels == 2] = 1
    labels[:4] = 2
    part = split(logits, labels, draw(1, 50, 3)[0])
    plain, own = (prediction_sets([part], 0.9, by_class=by_class) for by_class in (False, True))
    np.testing.assert_array_equal(plain[:, 2], own[:, 2])
    assert (plain[:, :2] != own[:, :2]).any()


class Known(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose answers are its inputs."""

    def fit(self, x: Any, y: Any) -> Known:
        self.classes_ = np.arange(x.shape[1])
        self.fitted_ = True
        return self

    def predict_proba(self, x: Any) -> Any:
        return softmax(x, axis=1)

    def predict(self, x: Any) -> Any:
        return np.argmax(x, axis=1)


def mapies_sets(logits: Any, labels: Any, test: Any, coverage: float, score: str, **more: Any) -> Any:
    """What mapie makes of the same logits: (M, C)."""
    mapie = pytest.importorskip("mapie.classification")
    known = mapie.SplitConformalClassifier(
        Known().fit(logits, labels), confidence_level=coverage, conformity_score=score, prefit=True
    ).conformalize(logits, labels)
    return known.predict_set(test, **more)[1][:, :, 0]


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_mapie_makes_the_same_sets(seed: int, coverage: float) -> None:
    logits, labels = draw(seed, 120)
    test, _ = draw(seed + 100, 300)
    theirs = mapies_sets(logits, labels, test, coverage, "lac")
    np.testing.assert_array_equal(prediction_sets([split(logits, labels, test)], coverage), theirs)


def test_mapies_aps_is_randomised_and_so_smaller() -> None:
    logits, labels = draw(3, 120)
    test, _ = draw(4, 300)
    last = {"conformity_score_params": {"include_last_label": False}}
    theirs = mapies_sets(logits, labels, test, 0.9, "aps", **last)
    ours = prediction_sets([split(logits, labels, test, "aps")], 0.9)
    assert not (theirs & ~ours)[ours.any(axis=1)].any()
    assert theirs.sum() < ours.sum()


def test_what_is_proven() -> None:
    assert [fewest_images(c) for c in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    assert guaranteed_coverage(40, 0.9) == 0.9
    assert guaranteed_coverage(100, 0.9, folds=100) == pytest.approx(0.8)  # jackknife+
    assert guaranteed_coverage(100, 0.9, folds=5) == pytest.approx(0.8 - 1.6 / 21)
    assert guaranteed_coverage(10, 0.5, folds=2) == 0


def test_wrong_arguments_are_named() -> None:
    part = split(*draw(0, 20), draw(1, 3)[0])
    for coverage in (0.0, 1.0, 90.0):
        with pytest.raises(ConfigError, match=r"coverage .*: expected a number above 0 and below 1"):
            prediction_sets([part], coverage)
    with pytest.raises(DataError, match="no calibration image"):
        prediction_sets([], 0.9)
    with pytest.raises(DataError, match="test scores of shape"):
        prediction_sets([part, split(*draw(0, 20), draw(1, 4)[0])], 0.9)
    with pytest.raises(ConfigError, match="expected one of lac, aps, raps"):
        strangeness(np.zeros((1, 2)), "top")  # type: ignore[arg-type]


def test_scores_that_nearly_round_to_certainty_are_told_apart() -> None:
    surer, sure = strangeness([[900.0, 0.0], [800.0, 0.0]])[:, 1]
    assert surer > sure
