"""Which contender is kept, and when several are: by constructed answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blocklora.methods.auto.choose import Judged, best_mixture, best_of, why_not
from blocklora.methods.held_out.judging import Contender, Record
from blocklora.methods.held_out.parts import Part
from blocklora.methods.held_out.scores import scores

N = 60
LABELS = torch.arange(N) % 2
PARTS = [Part((), (), tuple(range(N)))]


def judged(key: str, of_truth: np.ndarray, *, adapts: bool = False) -> Judged:
    """A contender that gives the true classes these probabilities."""
    logs = torch.from_numpy(np.log(np.stack([of_truth, 1 - of_truth], axis=1)))
    rows = torch.where((LABELS == 0)[:, None], logs, logs.flip(1))
    contender = Contender(key, key, lambda job, settings: None, None, adapts=adapts)  # type: ignore[arg-type,return-value]
    return Judged(contender, Record({0: rows}, {0: 1.0}), scores({0: rows}, PARTS, LABELS)[0])


def noisy(seed: int, right: float) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.where(draw.random(N) < right, draw.uniform(0.6, 0.95, N), draw.uniform(0.05, 0.4, N))


def test_the_better_one_is_kept() -> None:
    bad, good = judged("bad", noisy(0, 0.55)), judged("good", noisy(1, 0.95))
    assert best_of([bad, good]) is good
    assert best_of([good, bad]) is good
    assert "log loss +" in why_not(bad, good.scores)


def test_of_equals_the_first_is_kept() -> None:
    values = noisy(2, 0.8)
    first, second = judged("first", values), judged("second", values)
    assert best_of([first, second]) is first
    assert best_of([second, first]) is second


def test_one_of_a_low_loss_but_far_less_right_is_not_kept() -> None:
    calm = judged("calm", np.where(np.arange(N) < 20, 0.45, 0.95))  # a third wrong, by a hair
    right = judged("right", np.full(N, 0.8))
    assert best_of([calm, right]) is right


def test_one_that_fewer_images_judged_must_be_clearly_better() -> None:
    whole = judged("whole", noisy(4, 0.8))
    half = PARTS[0].judged[: N // 2]
    values = np.exp(-whole.scores.losses)

    def of_half(key: str, of_truth: np.ndarray) -> Judged:
        logs = torch.from_numpy(np.log(np.stack([of_truth, 1 - of_truth], axis=1)))[: N // 2]
        rows = torch.where((LABELS == 0)[: N // 2, None], logs, logs.flip(1))
        found = scores({0: rows}, [Part((), (), half)], LABELS)[0]
        return Judged(
            Contender(key, key, lambda job, settings: None, None), Record({0: rows}, {0: 1.0}), found
        )  # type: ignore[arg-type,return-value]

    same, better = of_half("same", values), of_half("better", np.full(N, 0.97))
    assert best_of([whole, same]) is whole
    assert best_of([whole, better]) is better


def test_two_that_know_different_things_are_mixed() -> None:
    half = np.arange(N) < N // 2
    one = judged("one", np.where(half, 0.99, 0.3))
    other = judged("other", np.where(half, 0.3, 0.99))
    found = best_mixture(one, [one, other], PARTS, LABELS)
    assert found is not None
    assert [member.contender.key for member in found[0]] == ["one", "other"]
    assert found[1].scores.log_loss < one.scores.log_loss
    assert sum(found[1].weights) == pytest.approx(1.0)


def test_two_adapted_ones_are_never_mixed() -> None:
    half = np.arange(N) < N // 2
    one = judged("one", np.where(half, 0.99, 0.3), adapts=True)
    other = judged("other", np.where(half, 0.3, 0.99), adapts=True)
    assert best_mixture(one, [one, other], PARTS, LABELS) is None


def test_a_copy_or_a_worse_one_adds_nothing() -> None:
    values = noisy(3, 0.9)
    one = judged("one", values)
    assert best_mixture(one, [one, judged("copy", values)], PARTS, LABELS) is None
    assert best_mixture(one, [one, judged("chance", np.full(N, 0.5) - 1e-9)], PARTS, LABELS) is None
