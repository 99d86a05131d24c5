import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from sklearn.metrics import log_loss

from blocklora.core.errors import ConfigError, DataError
from blocklora.metrics import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
    top_calibration_error,
)


@st.composite
def cases(draw):
    """(N, C) logits and (N,) labels, drawn from a seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, n_classes = draw(st.integers(1, 60)), draw(st.integers(2, 6))
    logits = rng.normal(size=(n, n_classes)) * draw(st.floats(0.1, 8))
    return logits, rng.integers(0, n_classes, n)


def slow_ece(confidence, correct):
    """Kumar et al.: bins of equal mass; what chance adds to a gap by numerical integration."""
    n, total = len(confidence), 0.0
    n_bins = min(15, max(1, n // 10))
    limits = [sorted(confidence)[math.ceil(n * b / n_bins) - 1] for b in range(1, n_bins)]
    for low, high in pairwise([-1.0, *limits, 2.0]):
        inside = [(c, ok) for c, ok in zip(confidence, correct, strict=True) if low < c <= high]
        if not inside:
            continue
        share = sum(ok for _, ok in inside) / len(inside)
        gap = abs(share - sum(c for c, _ in inside) / len(inside))
        spread = math.sqrt(share * (1 - share) / len(inside))
        mean = np.abs(gap + spread * norm.ppf((np.arange(20_000) + 0.5) / 20_000)).mean()
        total += len(inside) / n * (gap - (mean - gap))
    return max(0.0, total)


def slow_spread(logits):
    return math.sqrt(np.mean([(x - np.mean(row)) ** 2 for row in logits for x in row]))


def grid_temperature(logits, labels, weight):
    """The best of 2,001 temperatures, spaced evenly in log T."""
    centre = slow_spread(logits) / 2.5
    inverses = 1 / (centre * np.exp(np.linspace(-7, 7, 2_001)))
    losses = [
        -log_softmax(logits * b, axis=1)[np.arange(len(labels)), labels].sum()
        + weight * (centre * b - 1 - math.log(centre * b))
        for b in inverses
    ]
    return 1 / inverses[int(np.argmin(losses))]


@given(cases())
@settings(max_examples=40, deadline=None)
def test_ece_is_that_of_the_formula_and_a_share(case):
    probabilities, labels = softmax(case[0], axis=1), case[1]
    ece = expected_calibration_error(probabilities, labels)
    slow = slow_ece(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    assert ece == pytest.approx(slow, abs=2e-5)
    assert 0 <= ece <= 1


def test_ece_of_honest_probabilities_is_near_zero_where_the_plain_one_is_not():
    rng = np.random.default_rng(0)
    debiased, plain = [], []
    for _ in range(30):
        sure = rng.uniform(0.5, 1, 150)
        right = rng.random(150) < sure
        debiased.append(top_calibration_error(sure, right))
        bins = np.array_split(np.argsort(sure), 15)
        plain.append(sum(abs(right[b].mean() - sure[b].mean()) * len(b) for b in bins) / 150)
    assert np.mean(debiased) < 0.7 * np.mean(plain)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_brier_is_the_squared_distance_to_the_truth(case):
    probabilities, labels = softmax(case[0], axis=1), case[1]
    truth = np.eye(probabilities.shape[1])[labels]
    assert brier_score(probabilities, labels) == pytest.approx(((probabilities - truth) ** 2).sum(1).mean())
    assert 0 <= brier_score(probabilities, labels) <= 2


@given(cases(), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_order_of_images_does_not_matter(case, seed):
    logits, labels = case
    order = np.random.default_rng(seed).permutation(len(labels))
    probabilities = softmax(logits, axis=1)
    for metric in (expected_calibration_error, negative_log_likelihood):
        assert metric(probabilities[order], labels[order]) == pytest.approx(metric(probabilities, labels))
    assert fit_temperature(logits[order], labels[order]) == pytest.approx(
        fit_temperature(logits, labels), rel=1e-4
    )


@given(cases(), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_bins_hold_every_image_once(case, n_bins):
    probabilities, labels = softmax(case[0], axis=1), case[1]
    bins = reliability_bins(probabilities, labels, n_bins)
    assert len(bins.edges) == n_bins + 1
    assert sum(bins.counts) == len(labels)
    right = sum(n * a for n, a in zip(bins.counts, bins.accuracy, strict=True) if n)
    assert right == pytest.approx((probabilities.argmax(1) == labels).sum())
    for low, high, n, confidence in zip(
        bins.edges, bins.edges[1:], bins.counts, bins.confidence, strict=False
    ):
        assert (n == 0) == (confidence is None)
        assert n == 0 or low - 1e-12 <= confidence <= high + 1e-12


def test_an_edge_belongs_to_the_bin_below():
    bins = reliability_bins([[0.5, 0.5], [0.5000001, 0.4999999], [1.0, 0.0]], [0, 0, 0], n_bins=2)
    assert bins.counts == (1, 2)
    assert bins.edges == (0.0, 0.5, 1.0)


def test_perfect_and_always_wrong_classifiers():
    sure, labels = np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 1])
    assert expected_calibration_error(sure, labels) == 0
    assert negative_log_likelihood(sure, labels) == 0
    assert expected_calibration_error(sure, (labels + 1) % 3) == 1
    assert negative_log_likelihood(sure, (labels + 1) % 3) == pytest.approx(87.3365, abs=1e-3)  # finite


def test_constant_classifier_is_as_wrong_as_its_confidence_is_far_from_its_accuracy():
    probabilities, labels = np.tile([0.7, 0.3], (10, 1)), np.array([0] * 4 + [1] * 6)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.3, abs=0.01)


def test_rounding_above_one_is_accepted():
    rows = np.array([[1.0000002, 0.0]], dtype=np.float32)
    assert reliability_bins(rows, [0]).confidence[-1] == 1.0
    assert negative_log_likelihood(rows, [0]) == 0


@given(cases())
@settings(max_examples=40, deadline=None)
def test_nll_is_the_log_loss_of_scikit_learn(case):
    probabilities, labels = softmax(case[0], axis=1), case[1]
    probabilities = (
        0.999 * probabilities + 0.001 / probabilities.shape[1]
    )  # theirs cuts at another small number
    theirs = log_loss(labels, probabilities, labels=range(probabilities.shape[1]))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


@given(cases())
@settings(max_examples=8, deadline=None)
def test_temperature_is_the_best_of_a_grid(case):
    logits, labels = case
    assert fit_temperature(logits, labels) == pytest.approx(grid_temperature(logits, labels, 1), rel=7e-3)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_temperature_keeps_the_answers(case):
    logits, labels = case
    temperature = fit_temperature(logits, labels)
    assert temperature > 0
    assert (logits / temperature).argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()


def test_temperature_undoes_a_known_scale_and_many_images_outweigh_the_second_term():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4000, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(honest, axis=1)])
    assert fit_temperature(3 * honest, labels) == pytest.approx(3, rel=0.06)
    plain = grid_temperature(3 * honest[:1000], labels[:1000], weight=0)
    assert fit_temperature(3 * honest[:1000], labels[:1000]) == pytest.approx(plain, rel=0.02)


@given(cases(), st.floats(-12, 12), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_the_logits_does_not_matter(case, log_scale, shift):
    logits, labels = case
    scale = math.exp(log_scale)
    assert fit_temperature(scale * logits + shift * scale, labels) == pytest.approx(
        scale * fit_temperature(logits, labels), rel=1e-4
    )


def drawn(rng, n, n_classes, spread):
    """Logits whose softmax is the true distribution, and labels drawn from it."""
    logits = spread * rng.normal(size=(n, n_classes))
    chances = softmax(logits, axis=1).cumsum(axis=1)
    return logits, (chances > rng.random((n, 1))).argmax(axis=1)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("n_classes", [2, 5, 20])
def test_logits_of_any_size_get_honest_probabilities(scale, n_classes):
    """A linear probe under a strong penalty gives logits near 0: without a temperature all classes look alike."""
    rng = np.random.default_rng(n_classes)
    val, test = drawn(rng, 40, n_classes, 3.0), drawn(rng, 4000, n_classes, 3.0)
    temperature = fit_temperature(scale * val[0], val[1])
    assert expected_calibration_error(softmax(scale * test[0] / temperature, axis=1), test[1]) < 0.08
    if scale < 1:
        assert expected_calibration_error(softmax(scale * test[0], axis=1), test[1]) > 0.3


@pytest.mark.parametrize("n_val", [1, 3, 10])
def test_few_images_are_better_than_their_own_likelihood(n_val):
    rng = np.random.default_rng(n_val)
    test = drawn(rng, 2000, 5, 3.0)
    ours, plain = [], []
    for _ in range(20):
        val = drawn(rng, n_val, 5, 3.0)
        for found, temperature in (
            (ours, fit_temperature(*val)),
            (plain, grid_temperature(*val, weight=0)),
        ):
            found.append(negative_log_likelihood(softmax(test[0] / temperature, axis=1), test[1]))
    assert np.mean(ours) < np.mean(plain)
    assert np.mean(ours) < 0.95  # uniform probabilities: log 5 = 1.61; the true ones: 0.72


def test_few_images_move_the_temperature_a_little():
    logits = np.array([[3.0, 0.0, 0.0]])
    centre = slow_spread(logits) / 2.5
    assert 0.7 * centre < fit_temperature(logits, [0]) < centre
    assert centre < fit_temperature(logits, [1]) < 8 * centre
    all_right = [fit_temperature(np.tile(logits, (n, 1)), [0] * n) for n in (1, 10, 100, 1000)]
    assert all_right == sorted(all_right, reverse=True)
    assert all_right[-1] > 0.25


def test_temperature_stays_in_the_range_that_is_searched():
    many_wrong = np.tile([1000.0, 0.0], (50, 1))
    assert 500 < fit_temperature(many_wrong, [1] * 50) <= 500 * math.exp(9) * (1 + 1e-9)
    many_right = np.tile([1e-2, 0.0], (10**5, 1))
    assert 0 < fit_temperature(many_right, np.zeros(10**5, int)) < 1e-2 / 5


def test_temperature_is_one_without_evidence():
    assert fit_temperature(np.empty((0, 4)), []) == 1.0
    assert fit_temperature([[2.0], [5.0]], [0, 0]) == 1.0
    assert fit_temperature([[0.1, 0.1, 0.1], [5.0, 5.0, 5.0]], [0, 1]) == 1.0


@pytest.mark.parametrize("n_bins", [0, -3])
def test_no_bins_is_refused(n_bins):
    with pytest.raises(ConfigError, match=f"n_bins is {n_bins}; expected 1 or more"):
        reliability_bins([[1.0, 0.0]], [0], n_bins)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, 2.0], [0, 1], r"logits has shape \(2,\)"),
        (np.empty((3, 0)), [0, 0, 0], r"logits has shape \(3, 0\)"),
        ([[0.0, 1.0], [math.nan, 1.0]], [0, 1], "not finite, in row 1"),
        ([[0.0, math.inf]], [0], "not finite, in row 0"),
        ([[0.0, 1.0]], [0, 1], r"labels has shape \(2,\); expected \(1,\)"),
        ([[0.0, 1.0]], [2], "labels holds 2; expected 0 to 1"),
        ([[0.0, 1.0]], [0.5], "labels holds float64 values"),
    ],
)
def test_unusable_logits_are_refused(logits, labels, message):
    with pytest.raises(DataError, match=message):
        fit_temperature(logits, labels)
