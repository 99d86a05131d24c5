import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from blocklora.metrics import (
    ClassResult,
    confusion_counts,
    confusion_matrix,
    mean_class_accuracy,
    per_class,
    wilson_interval,
)


@st.composite
def answers(draw):
    """(N,) true classes, (N,) predicted ones, and C."""
    n_classes = draw(st.integers(2, 6))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, n_classes - 1)] * 2), min_size=1, max_size=40))
    truth, predicted = np.array(pairs).T
    return truth, predicted, n_classes


@given(answers())
@settings(max_examples=50, deadline=None)
def test_confusion_is_that_of_scikit_learn(case):
    truth, predicted, n_classes = case
    counts = confusion_counts(truth, predicted, n_classes)
    theirs = reference.confusion_matrix(truth, predicted, labels=range(n_classes))
    assert confusion_matrix(counts, n_classes).tolist() == theirs.tolist()
    assert all(n > 0 for _, _, n in counts)
    assert list(counts) == sorted(counts)


def test_confusion_counts_hold_no_more_than_the_images():
    rng = np.random.default_rng(0)
    counts = confusion_counts(rng.integers(0, 50_000, 100), rng.integers(0, 50_000, 100), 50_000)
    assert len(counts) <= 100


@given(answers())
@settings(max_examples=50, deadline=None)
def test_mean_class_accuracy_is_the_mean_recall_of_the_classes_present(case):
    truth, predicted, n_classes = case
    recalls = [(predicted[truth == c] == c).mean() for c in range(n_classes) if (truth == c).any()]
    ours = mean_class_accuracy(per_class(truth, predicted, list(map(str, range(n_classes)))))
    assert ours == pytest.approx(sum(recalls) / len(recalls))


def test_mean_class_accuracy_weighs_a_rare_class_as_much_as_a_common_one():
    truth = np.array([0] * 98 + [1] * 2)
    assert mean_class_accuracy(per_class(truth, np.zeros(100, int), ["a", "b"])) == 0.5


@given(answers())
@settings(max_examples=50, deadline=None)
def test_per_class_agrees_with_scikit_learn(case):
    truth, predicted, n_classes = case
    rows = per_class(truth, predicted, [f"c{i}" for i in range(n_classes)])
    precision, recall, _, support = reference.precision_recall_fscore_support(
        truth, predicted, labels=range(n_classes), zero_division=np.nan
    )
    assert [row.n_test for row in rows] == support.tolist()
    assert [row.n_predicted for row in rows] == np.bincount(predicted, minlength=n_classes).tolist()
    for row, p, r in zip(rows, precision, recall, strict=True):
        assert (np.isnan(r) and row.accuracy is None) or row.accuracy == pytest.approx(r)
        assert (np.isnan(p) and row.precision is None) or row.precision == pytest.approx(p)


def test_per_class_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1])
    now, before = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 0, 0])
    cat, dog, owl = per_class(truth, now, ["cat", "dog", "owl"], before)
    assert cat == ClassResult("cat", 4, 3, 0.75, wilson_interval(3, 4), 1.0, 0.5)
    assert (dog.accuracy, dog.precision, dog.zero_shot_accuracy) == (1.0, 2 / 3, 0.0)
    assert owl == ClassResult("owl", 0, 0, None, None, None, None)
