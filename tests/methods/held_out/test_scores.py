"""Scores image by image, against a slow reference; and mixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from blocklora.methods.held_out.parts import Part
from blocklora.methods.held_out.scores import Scores, difference, mixture, scores

LABELS = torch.tensor([0, 1, 2, 0])
PARTS = [
    Part((), (), (2, 0)),
    Part((), (), (1, 3)),
    Part((), (), (0, 1), repetition=1),
    Part((), (), (3, 2), repetition=1, validated=True),
]


def said(seed: int, numbers: range, sure: float = 1.0) -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        number: torch.randn(2, 3, generator=draw, dtype=torch.float64)
        + sure * torch.eye(3, dtype=torch.float64)[LABELS[list(PARTS[number].judged)]]
        for number in numbers
    }


def test_an_image_judged_twice_counts_once_with_its_mean() -> None:
    logits = said(0, range(4))
    found, held_out = scores(logits, PARTS, LABELS)
    of_image: dict[int, list[tuple[float, bool]]] = {}
    for number, rows in logits.items():
        for place, row in zip(PARTS[number].judged, rows.tolist(), strict=True):
            powers = [math.exp(value / found.temperature) for value in row]
            label = int(LABELS[place])
            of_image.setdefault(place, []).append(
                (-math.log(powers[label] / sum(powers)), max(row) == row[label])
            )
    for place, loss, right in zip(found.images, found.losses, found.correct, strict=True):
        assert loss == pytest.approx(np.mean([one for one, _ in of_image[place]]))
        assert right == pytest.approx(np.mean([one for _, one in of_image[place]]))
    assert found.log_loss == pytest.approx(found.losses.mean())
    assert (held_out.n_images, len(held_out.labels)) == (4, 8)
    assert "validation" in held_out.reason
    own = held_out.of_training(3)
    assert own is not None
    assert own.labels.tolist() == LABELS[:3].tolist()
    rows = np.concatenate([logits[number].numpy() for number in range(4)])
    np.testing.assert_allclose(own.logits[2], rows[held_out.images == 2].mean(axis=0))
    assert held_out.of_training(5) is None


def test_a_mixture_is_on_the_parts_that_judged_all_of_it() -> None:
    both, first = said(1, range(4)), said(2, range(2))
    found = mixture([both, first], PARTS, LABELS)
    assert sum(found.weights) == pytest.approx(1.0)
    assert len(found.out_of_fold.labels) == 4
    losses = []
    temperatures = [scores(member, PARTS, LABELS)[0].temperature for member in (both, first)]
    for number in (0, 1):
        for row, place in enumerate(PARTS[number].judged):
            each = [
                float((member[number][row] / t).softmax(dim=0)[LABELS[place]])
                for member, t in zip((both, first), temperatures, strict=True)
            ]
            mean = sum(weight * share for weight, share in zip(found.weights, each, strict=True))
            losses.append(-math.log(mean))
    assert found.scores.log_loss == pytest.approx(np.mean(losses))
    np.testing.assert_allclose(np.exp(found.out_of_fold.logits).sum(axis=1), 1.0)


def test_a_difference_is_on_the_shared_images_and_has_the_standard_error_of_its_mean() -> None:
    one = Scores(np.array([1, 3, 4, 7]), np.array([1.0, 2.0, 4.0, 9.0]), np.array([1.0, 0.0, 1.0, 0.5]), 1.0)
    other = Scores(
        np.array([0, 1, 3, 4]), np.array([9.0, 0.0, 2.0, 1.0]), np.array([0.0, 0.0, 0.0, 1.0]), 1.0
    )
    gap, error = difference(one, other, "losses")
    assert gap == pytest.approx(4 / 3)
    assert error == pytest.approx(np.std([1, 0, 3], ddof=1) / math.sqrt(3))
    assert difference(one, other, "correct")[0] == pytest.approx(1 / 3)
    alone = Scores(np.array([7]), np.array([8.0]), np.array([0.0]), 1.0)
    assert difference(one, alone, "losses") == (1.0, 0.0)
