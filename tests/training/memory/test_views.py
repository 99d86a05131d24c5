"""How many fixed views make sense, and what one takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blocklora.training.memory.costs import TowerShape
from blocklora.training.memory.planner import ModelShape
from blocklora.training.memory.views import sensible_views, view_bytes

TOP = TowerShape(768, 3072, 12, 12, 9, (6, 0, 0, 0))
MODEL = ModelShape(TOP, TowerShape(512, 2048, 12, 8, 9, (6, 0, 0, 0)), 197, 224, 512, 10**8, 10**5)


def test_a_view_is_kept_in_16_bits_or_as_features() -> None:
    assert view_bytes(MODEL) == 2 * 197 * 768
    untrained = replace(MODEL, vision=replace(TOP, first=12, ranks=(0, 0, 0, 0)))
    assert view_bytes(untrained) == 4 * 512


@pytest.mark.parametrize(
    ("n_images", "steps", "number"),
    [
        (160, 8000, 16),
        (160, 5, 1),  # one epoch
        (160, 500, 10),  # 100 epochs: a quarter of what they compute is the lower blocks of ten views
        (8, 3, 1),
    ],
)
def test_no_more_than_make_sense(n_images: int, steps: int, number: int) -> None:
    assert sensible_views(MODEL, n_images, 32, steps) == number
