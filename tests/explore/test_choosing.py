"""Which images to label: against the definition, and against chance on a bundled task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blocklora.clip import load_image_tower
from blocklora.core.device import Compute
from blocklora.data import load_dataset
from blocklora.explore import choosing
from blocklora.explore.choosing import FEW, choose_images, doubt
from blocklora.findings.looking import look_at
from blocklora.methods.frozen.gda import discriminant

SEEDS, ROUNDS = 5, 5


def unit(m: int, seed: int = 0, d: int = 6) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(m, d)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def slow_choice(features, labelled, uncertainty, n):
    """The definition: try every image in every round."""
    kernel = lambda a, b: np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 0.25)  # noqa: E731
    chosen = []
    for _ in range(n):
        best, value = -1, -1.0
        for place in range(len(features)):
            if place in chosen:
                continue
            known = np.concatenate([labelled, features[[*chosen, place]]])
            covered = (uncertainty * kernel(features, known).max(axis=1)).mean()
            if covered > value + 1e-12:
                best, value = place, covered
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("labelled", [0, 3])
def test_they_are_those_of_the_definition(labelled, monkeypatch):
    monkeypatch.setattr(choosing, "_BLOCK", 7)
    features, known = unit(40), unit(labelled, seed=1)
    uncertainty = np.random.default_rng(2).random(40)
    places, added = choose_images(features, known, uncertainty, 6)
    assert places.tolist() == slow_choice(features.astype(float), known.astype(float), uncertainty, 6)
    assert (np.diff(added) <= 1e-12).all()
    assert (added > 0).all()


def test_no_image_is_chosen_twice_and_none_that_is_not_there():
    places, added = choose_images(unit(5), unit(0), np.ones(5), 9)
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert len(added) == 5
    same = np.tile(unit(1), (4, 1))
    assert sorted(choose_images(same, same, np.zeros(4), 3)[0]) == [0, 1, 2]
    assert len(choose_images(unit(0), unit(2), np.ones(0), 3)[0]) == 0


def test_the_mean_may_be_over_some_of_them(monkeypatch):
    monkeypatch.setattr(choosing, "_ANCHORS", 10)
    places, _ = choose_images(unit(50), unit(2, seed=1), np.ones(50), 5)
    assert len(set(places.tolist())) == 5


def test_doubt_is_one_less_the_margin():
    np.testing.assert_allclose(doubt(np.array([[0.7, 0.1, 0.2], [0.5, 0.5, 0.0]])), [0.5, 1.0])


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels of scans to choose from, and of others to test on, by the bundled model."""
    data = load_dataset("digits")
    pool, test = data.train[:500], data.test[:400]
    compute = Compute(torch.device("cpu"), "fp32")
    images = [(one.image, one.source) for one in (*pool, *test)]
    features = look_at(images, load_image_tower("tiny"), compute).features
    labels = np.array([one.label for one in (*pool, *test)])
    return features[:500], labels[:500], features[500:], labels[500:]


def probabilities(features, labels, inputs):
    weight, bias = discriminant(torch.from_numpy(features).double(), torch.from_numpy(labels), 10)
    return (0.1 * (torch.from_numpy(inputs).double() @ weight.T + bias)).softmax(dim=1).numpy()


def simulated(digits, seed: int, *, by_chance: bool) -> float:
    """Start from one image a class, label ten more in each round; return the mean accuracy after the rounds."""
    pool, truth, test, test_labels = digits
    draw = np.random.default_rng(seed)
    labelled = [int(draw.choice(np.flatnonzero(truth == n))) for n in range(10)]
    found = []
    for _ in range(ROUNDS):
        rest = np.setdiff1d(np.arange(len(pool)), labelled)
        if by_chance:
            chosen = draw.choice(len(rest), 10, replace=False)
        else:
            doubts = doubt(probabilities(pool[labelled], truth[labelled], pool[rest]))
            uncertainty = np.ones(len(rest)) if len(labelled) < 10 * FEW else doubts
            chosen, _ = choose_images(pool[rest], pool[labelled], uncertainty, 10)
        labelled += rest[chosen].tolist()
        said = probabilities(pool[labelled], truth[labelled], test).argmax(axis=1)
        found.append(float((said == test_labels).mean()))
    return float(np.mean(found))


def test_five_rounds_beat_chance_on_digits(digits):
    by_chance = np.mean([simulated(digits, seed, by_chance=True) for seed in range(SEEDS)])
    chosen = np.mean([simulated(digits, seed, by_chance=False) for seed in range(SEEDS)])
    assert chosen > by_chance + 0.02
