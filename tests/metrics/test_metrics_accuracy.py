import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from blocklora.metrics import confusion_matrix, mean_class_accuracy, per_class, wilson_interval


@st.composite
def answers(draw):
    """(N,) true classes, (N,) answers, and C."""
    n_classes = draw(st.integers(2, 6))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, n_classes - 1)] * 2), min_size=1, max_size=40))
    truth, predicted = np.array(pairs).T
    return truth, predicted, n_classes


@given(answers())
@settings(max_examples=50, deadline=None)
def test_confusion_matrix_is_that_of_scikit_learn(case):
    truth, predicted, n_classes = case
    ours = confusion_matrix(truth, predicted, n_classes)
    theirs = reference.confusion_matrix(truth, predicted, labels=range(n_classes))
    assert ours.tolist() == theirs.tolist()


@given(answers())
@settings(max_examples=50, deadline=None)
def test_mean_class_accuracy_is_the_mean_recall_of_the_classes_present(case):
    truth, predicted, n_classes = case
    recalls = [(predicted[truth == c] == c).mean() for c in range(n_classes) if (truth == c).any()]
    ours = mean_class_accuracy(confusion_matrix(truth, predicted, n_classes))
    assert ours == pytest.approx(sum(recalls) / len(recalls))


def test_mean_class_accuracy_weighs_a_rare_class_as_much_as_a_common_one():
    truth = np.array([0] * 98 + [1] * 2)
    assert mean_class_accuracy(confusion_matrix(truth, np.zeros(100, int), 2)) == 0.5


@given(answers())
@settings(max_examples=50, deadline=None)
def test_per_class_agrees_with_scikit_learn(case):
    truth, predicted, n_classes = case
    rows = per_class(confusion_matrix(truth, predicted, n_classes), [f"c{i}" for i in range(n_classes)])
    precision, recall, _, support = reference.precision_recall_fscore_support(
        truth, predicted, labels=range(n_classes), zero_division=np.nan
    )
    assert [row["n_test"] for row in rows] == support.tolist()
    assert [row["n_predicted"] for row in rows] == np.bincount(predicted, minlength=n_classes).tolist()
    for row, p, r in zip(rows, precision, recall, strict=True):
        assert (np.isnan(r) and row["accuracy"] is None) or row["accuracy"] == pytest.approx(r)
        assert (np.isnan(p) and row["precision"] is None) or row["precision"] == pytest.approx(p)


def test_per_class_rows_by_hand():
    now = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    before = np.array([[2, 2, 0], [2, 0, 0], [0, 0, 0]])
    cat, dog, owl = per_class(now, ["cat", "dog", "owl"], before)
    assert cat == {
        "class_name": "cat",
        "n_test": 4,
        "n_predicted": 3,
        "accuracy": 0.75,
        "accuracy_interval": list(wilson_interval(3, 4)),
        "precision": 1.0,
        "zero_shot_accuracy": 0.5,
    }
    assert (dog["accuracy"], dog["precision"], dog["zero_shot_accuracy"]) == (1.0, 2 / 3, 0.0)
    assert owl == {"class_name": "owl", "n_test": 0, "n_predicted": 0} | dict.fromkeys(
        ["accuracy", "accuracy_interval", "precision", "zero_shot_accuracy"]
    )
