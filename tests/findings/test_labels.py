"""Labels in doubt: against the definition, and with wrong labels planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from blocklora.findings.labels import _discriminant, doubts, out_of_fold


def clouds(n: int, per_class: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit features around n directions, and their labels."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n), per_class)
    values = np.eye(n, 12)[labels] + 0.15 * draw.normal(size=(len(labels), 12))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), labels


def test_wrong_labels_are_the_first_suspects():
    features, labels = clouds(5, 40)
    wrong = np.array([3, 50, 90, 130, 199])
    given = labels.copy()
    given[wrong] = (given[wrong] + 2) % 5
    found = doubts(out_of_fold(features, given, 5, np.arange(200)), given)
    assert set(found.suspects[:5]) == set(wrong)
    assert (found.suggested[wrong] == labels[wrong]).all()
    assert len(found.suspects) <= 20
    assert found.n_confident >= 4
    assert found.accuracy > 0.9
    assert (found.rival[wrong] > found.confidence[wrong]).all()


def test_the_confident_joint_is_the_paper_s():
    draw = np.random.default_rng(1)
    p = draw.dirichlet(np.ones(4), 60)
    given = np.concatenate([np.arange(4), draw.integers(0, 4, 56)])
    threshold = [np.mean([p[i, n] for i in range(60) if given[i] == n]) for n in range(4)]
    off_diagonal = 0
    for row, label in zip(p, given, strict=True):  # equation 2 of arXiv 1911.00068
        reached = [n for n in range(4) if row[n] >= threshold[n]]
        off_diagonal += bool(reached) and max(reached, key=lambda n: row[n]) != label
    found = doubts(p, given)
    assert found.n_confident == off_diagonal
    assert (np.diff(found.confidence[found.suspects]) >= 0).all()
    assert len(found.suspects) == 6


def test_copies_are_held_out_together():
    features, labels = clouds(3, 10)
    features[1], labels[1] = features[0], 2  # the copy of an image, under another label
    apart = out_of_fold(features, labels, 3, np.arange(30))
    groups = np.arange(30)
    groups[1] = 0
    together = out_of_fold(features, labels, 3, groups)
    assert together[1, 2] < apart[1, 2] or together[0, 0] > apart[0, 0]
    np.testing.assert_allclose(together[0], together[1])  # judged by the same fit


def test_classes_of_one_image_are_not_judged():
    features, labels = clouds(3, 10)
    labels[:9] = 1  # class 0 keeps one image
    p = out_of_fold(features, labels, 3, np.arange(30))
    assert np.isnan(p[9]).all()
    assert not np.isnan(p[10:]).any()
    found = doubts(p, labels)
    assert 9 not in found.suspects
    assert np.isnan(found.confidence[9])


def test_one_class_and_no_image_leave_nothing_to_judge():
    features, labels = clouds(1, 6)
    found = doubts(out_of_fold(features, labels, 1, np.arange(6)), labels)
    assert len(found.suspects) == 0
    assert np.isnan(found.accuracy)
    none = np.empty(0, np.int64)
    assert len(doubts(out_of_fold(features[:0], none, 1, none), none).suspects) == 0


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_the_discriminant_analysis_is_scikit_learns(share):
    features, labels = clouds(4, 15)
    features = features.astype(np.float64)
    judged = np.random.default_rng(3).normal(size=(7, features.shape[1]))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share).fit(features, labels)
    found = _discriminant(features, labels, judged, share, 4)
    np.testing.assert_allclose(
        log_softmax(found, axis=1), reference.predict_log_proba(judged), rtol=1e-6, atol=1e-8
    )


def test_a_class_that_is_not_learned_is_never_the_most_probable():
    features, labels = clouds(3, 8)
    found = _discriminant(features.astype(np.float64), labels, features.astype(np.float64), 0.5, 5)
    assert np.isfinite(found).all()
    assert (found.argmax(axis=1) == labels).all()
    np.testing.assert_allclose(found[:, 3:], found[:, :3].min(axis=1, keepdims=True).repeat(2, axis=1))


def test_images_that_are_all_the_same_are_no_trouble():
    features = np.ones((12, 4), np.float32) / 2
    found = out_of_fold(features, np.repeat([0, 1], 6), 2, np.arange(12))
    np.testing.assert_allclose(found, 0.5, atol=0.05)


def test_the_shrinkage_is_the_one_of_the_least_log_loss(monkeypatch):
    features, labels = clouds(5, 20, seed=4)
    groups = np.arange(100)

    def loss(*shares):
        monkeypatch.setattr("blocklora.findings.labels._SHRUNK", shares)
        rows = out_of_fold(features, labels, 5, groups)
        np.testing.assert_allclose(rows.sum(axis=1), 1)
        return -np.log(rows[np.arange(100), labels]).mean()

    alone = [loss(share) for share in (0.1, 0.3, 0.6, 0.9)]
    assert loss(0.1, 0.3, 0.6, 0.9) == min(alone)
    assert len(set(alone)) == 4
