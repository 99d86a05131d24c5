import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blocklora.metrics
from blocklora.core.errors import DataError
from blocklora.metrics import (
    Evaluation,
    evaluate,
    expected_calibration_error,
    mcnemar_exact,
    negative_log_likelihood,
    paired_difference_interval,
    reliability_bins,
    wilson_interval,
)

NAMES = ["cat", "dog", "owl"]
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.4, 0.35, 0.25]])
LABELS = np.array([0, 0, 1, 1])


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, n_classes = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    probabilities = rng.dirichlet(np.full(n_classes, 0.5), n)
    return probabilities, rng.integers(0, n_classes, n), rng.integers(0, n_classes, n)


def names_of(probabilities):
    return [f"class {i}" for i in range(probabilities.shape[1])]


def test_public_surface_is_sorted_and_complete():
    assert blocklora.metrics.__all__ == sorted(blocklora.metrics.__all__)
    assert all(callable(getattr(blocklora.metrics, name)) for name in blocklora.metrics.__all__)


def test_evaluate_by_hand():
    result = evaluate(PROBABILITIES, LABELS, NAMES)
    assert result.accuracy == 0.5
    assert result.accuracy_interval == wilson_interval(2, 4)
    assert result.mean_class_accuracy == 0.5  # the owl, absent, does not count
    assert (result.n_test, result.n_correct, result.n_classes) == (4, 2, 3)
    assert result.confusion_counts == ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1))
    assert [row.class_name for row in result.per_class] == NAMES
    assert result.per_class[2].accuracy is None
    assert result.ece == expected_calibration_error(PROBABILITIES, LABELS)
    assert result.nll == negative_log_likelihood(PROBABILITIES, LABELS)
    assert result.reliability == reliability_bins(PROBABILITIES, LABELS)
    assert result.difference is None
    assert "difference" not in result.to_json()


def test_comparison_by_hand():
    result = evaluate(PROBABILITIES, LABELS, NAMES, [0, 1, 2, 1])
    # right after adapting: images 0 and 2; right before: 0 and 3; neither: 1
    assert result.zero_shot_accuracy == 0.5
    assert result.zero_shot_interval == wilson_interval(2, 4)
    difference = result.difference
    assert (difference.value, difference.only_adapted, difference.only_zero_shot) == (0.0, 1, 1)
    assert difference.interval == paired_difference_interval(1, 1, 1, 1)
    assert difference.p_value == mcnemar_exact(1, 1) == 1.0
    assert "Newcombe" in difference.method
    assert result.per_class[1].zero_shot_accuracy == 0.5


@given(cases(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_evaluation_is_plain_json_without_nan_and_comes_back(case, compared):
    probabilities, labels, before = case
    result = evaluate(probabilities, labels, names_of(probabilities), before if compared else None)
    facts = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert facts == result.to_json()
    assert Evaluation.from_json(facts) == result
    assert ("zero_shot_accuracy" in facts) == compared


@given(cases(), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_order_of_images_does_not_matter(case, seed):
    probabilities, labels, before = case
    order = np.random.default_rng(seed).permutation(len(labels))
    one = evaluate(probabilities, labels, names_of(probabilities), before)
    two = evaluate(probabilities[order], labels[order], names_of(probabilities), before[order])
    for key in ("accuracy", "mean_class_accuracy", "confusion_counts", "per_class", "difference"):
        assert getattr(one, key) == getattr(two, key)
    assert one.ece == pytest.approx(two.ece)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_a_perfect_classifier(case):
    labels = case[1]
    sure = np.eye(case[0].shape[1])[labels]
    result = evaluate(sure, labels, names_of(sure), labels)
    assert (result.accuracy, result.mean_class_accuracy, result.ece, result.nll) == (1, 1, 0, 0)
    assert result.difference.value == 0
    assert result.difference.p_value == 1


def test_a_constant_classifier_is_as_right_as_its_class_is_frequent():
    labels = np.array([0, 0, 0, 1, 2])
    result = evaluate(np.tile([0.6, 0.2, 0.2], (5, 1)), labels, NAMES)
    assert result.accuracy == 0.6
    assert result.mean_class_accuracy == pytest.approx(1 / 3)
    assert [row.accuracy for row in result.per_class] == [1, 0, 0]
    assert [row.precision for row in result.per_class] == [0.6, None, None]


def test_single_precision_softmax_of_a_thousand_classes_is_accepted():
    logits = np.random.default_rng(0).normal(size=(20, 1000)).astype(np.float32) * 10
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert evaluate(probabilities, np.zeros(20, int), [str(i) for i in range(1000)]).n_classes == 1000


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "message"),
    [
        (np.empty((0, 3)), [], NAMES, "the test part is empty"),
        ([0.5, 0.5], [0], ["a", "b"], r"probabilities has shape \(2,\); expected \(images, classes\)"),
        ([[0.5, 0.6]], [0], ["a", "b"], "row 0: the sum is 1.1, the least value 0.5"),
        ([[1, 0], [1.2, -0.2]], [0, 0], ["a", "b"], "row 1: the sum is 1, the least value -0.2"),
        ([[np.nan, 1]], [0], ["a", "b"], "not finite, in row 0"),
        ([[0.5, 0.5]], [0], NAMES, "3 class names for 2 columns"),
        ([[0.5, 0.5]], [0, 1], ["a", "b"], r"labels has shape \(2,\); expected \(1,\)"),
        ([[0.5, 0.5]], [2], ["a", "b"], "labels holds 2; expected 0 to 1"),
        ([[0.5, 0.5]], [-1], ["a", "b"], "labels holds -1; expected 0 to 1"),
        ([[0.5, 0.5]], [True], ["a", "b"], "labels holds bool values; expected integers"),
    ],
)
def test_unusable_input_is_refused(probabilities, labels, names, message):
    with pytest.raises(DataError, match=message):
        evaluate(probabilities, labels, names)


def test_unusable_zero_shot_labels_are_named():
    with pytest.raises(DataError, match="zero_shot_labels holds 3; expected 0 to 2"):
        evaluate(PROBABILITIES, LABELS, NAMES, [0, 1, 3, 0])
