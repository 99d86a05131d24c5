"""Images unlike the others, and labels that follow from how images were made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from blocklora.findings.properties import Properties, properties
from blocklora.findings.quality import blank, blurry, dark, far_away, long, tell_tale, tiny

USUAL = replace(
    properties(Image.new("RGB", (100, 80), "#777")), spread=60.0, sharpness=900.0, highlight=220.0
)


def some(n: int = 30, **more: object) -> list[Properties]:
    """Usual images, a little different from each other."""
    draw = np.random.default_rng(0)
    return [replace(USUAL, sharpness=900 * float(draw.uniform(0.7, 1.4)), **more) for _ in range(n)]


@pytest.mark.parametrize(("spread", "score"), [(0.0, 1.0), (1.0, 0.75), (4.0, 0.0), (60.0, 0.0)])
def test_one_colour_is_blank(spread, score):
    assert blank(replace(USUAL, spread=spread)) == score


@pytest.mark.parametrize(("highlight", "score"), [(0.0, 1.0), (25.0, 0.5), (50.0, 0.0), (255.0, 0.0)])
def test_what_is_nearly_black_is_dark(highlight, score):
    assert dark(replace(USUAL, highlight=highlight)) == score


def test_blurry_is_what_has_far_fewer_edges_than_the_others():
    found = blurry([*some(), replace(USUAL, sharpness=20.0)])
    assert found[-1] == pytest.approx(0.8)
    assert not found[:-1].any()
    assert not blurry(
        [replace(one, sharpness=20 + i % 5) for i, one in enumerate(some())]
    ).any()  # all are soft
    assert not blurry([*some(), replace(USUAL, sharpness=150.0)]).any()  # less than the others, and enough


def test_tiny_is_what_the_model_must_enlarge_where_others_are_large():
    found = tiny([*some(), replace(USUAL, width=300, height=8)], side=72)
    assert found[-1] == pytest.approx(1 - 16 / 72)
    assert not found[:-1].any()
    assert not tiny(some(width=8, height=8), side=72).any()


def test_long_is_more_than_three_to_one_where_others_are_not():
    found = long([*some(), replace(USUAL, width=80, height=400)])
    assert found[-1] == pytest.approx(1 - 3 / 5)
    assert not found[:-1].any()
    assert not long(some(width=500, height=100)).any()


def test_far_away_is_what_is_farther_from_its_nearest_than_is_usual():
    draw = np.random.default_rng(0)
    cosines = (0.9 + 0.04 * draw.random((50, 10))).astype(np.float32)
    cosines[7] = 0.1
    found = far_away(cosines)
    assert found[7] == pytest.approx(0.9, rel=1e-5)
    assert np.flatnonzero(found).tolist() == [7]
    assert not far_away(np.full((50, 10), 0.5, np.float32)).any()
    assert not far_away(np.empty((3, 0), np.float32)).any()


def test_half_of_all_distances_equal_leaves_a_scale():
    cosines = np.full((40, 3), 0.95, np.float32)
    cosines[:4] = [[0.94], [0.93], [0.2], [0.1]]
    assert set(np.flatnonzero(far_away(cosines))) >= {2, 3}


def test_a_label_that_follows_from_brightness_is_told_and_chance_is_not():
    draw = np.random.default_rng(0)
    labels = np.arange(120) % 3
    bright = [replace(USUAL, brightness=float(60 * n + draw.normal(0, 8))) for n in labels]
    ((name, accuracy, guess),) = tell_tale(bright, labels)
    assert name == "brightness"
    assert accuracy > 0.95
    assert guess == pytest.approx(1 / 3)
    assert tell_tale([replace(USUAL, brightness=float(b)) for b in draw.normal(100, 20, 120)], labels) == []
    assert tell_tale(bright[:39], labels[:39]) == []
    assert tell_tale(bright, np.zeros(120, int)) == []
