"""Copies and near copies."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from blocklora.findings.duplicates import exact_groups, near_groups
from blocklora.findings.neighbours import Neighbours
from blocklora.findings.properties import properties


def scene(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((200, 160), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def all_pairs(cosines: np.ndarray) -> Neighbours:
    """Every other image as a neighbour, the nearest first."""
    np.fill_diagonal(cosines, -1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :-1]
    return Neighbours(order, np.take_along_axis(cosines, order, axis=1).astype(np.float32))


def test_exact_copies_are_grouped_by_pixels_and_told_from_the_same_file():
    groups = exact_groups(["a", "b", "a", "c", "d"], [1, 2, 1, 2, 3])
    assert [(group.places, group.why, group.likeness) for group in groups] == [
        ((0, 2), "the same file", 1.0),
        ((1, 3), "the same pixels", 1.0),
    ]
    assert exact_groups([], []) == []


def test_near_copies_need_features_and_pixels():
    images = [scene(0), scene(1), jpeg(scene(0), 40), scene(2), scene(0).resize((100, 80))]
    seen = [properties(image) for image in images]
    near = np.full((5, 5), 0.95)
    groups = near_groups(seen, all_pairs(near), np.zeros(5, bool))
    assert [group.places for group in groups] == [(0, 2, 4)]
    assert groups[0].likeness == np.float32(0.95)
    far = near_groups(seen, all_pairs(np.full((5, 5), 0.9)), np.zeros(5, bool))
    assert far == []
    without = near_groups(seen, all_pairs(near), np.array([True, False, False, False, False]))
    assert [group.places for group in without] == [(2, 4)]


def test_a_chain_of_near_copies_is_one_group_of_its_highest_cosine():
    seen = [properties(jpeg(scene(0), quality)) for quality in (90, 70, 50)]
    cosines = np.array([[0, 0.93, 0.1], [0.93, 0, 0.96], [0.1, 0.96, 0]])
    (group,) = near_groups(seen, all_pairs(cosines), np.zeros(3, bool))
    assert (group.places, group.likeness) == ((0, 1, 2), np.float32(0.96))


def test_changed_images_count_only_where_they_are_far_nearer_than_others():
    brighter = scene(0).point(lambda value: min(255, int(value * 1.7)))  # many values are cut at 255
    seen = [properties(image) for image in (scene(0), brighter, scene(1), scene(2), scene(3), scene(4))]
    correlation = np.corrcoef(seen[0].sketch.ravel(), seen[1].sketch.ravel())[0, 1]
    assert correlation < 0.99
    bits = int((seen[0].bits != seen[1].bits).sum())
    assert correlation >= 0.93 or bits <= 6
    diverse, alike = np.full((6, 6), 0.4), np.full((6, 6), 0.965)
    for cosines in (diverse, alike):
        cosines[0, 1] = cosines[1, 0] = 0.98
    assert [g.places for g in near_groups(seen, all_pairs(diverse), np.zeros(6, bool))] == [(0, 1)]
    assert near_groups(seen, all_pairs(alike), np.zeros(6, bool)) == []


def test_no_images_have_no_groups():
    empty = Neighbours(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
    assert near_groups([], empty, np.zeros(0, bool)) == []


def test_very_small_images_have_exact_copies_only():
    small = [scene(0).resize((31, 40)), scene(0).resize((31, 39))]
    enough = [image.resize((32, 40)) for image in small]
    cosines = np.full((2, 2), 0.99)
    none = np.zeros(2, bool)
    assert near_groups([properties(image) for image in small], all_pairs(cosines.copy()), none) == []
    (group,) = near_groups([properties(image) for image in enough], all_pairs(cosines.copy()), none)
    assert group.places == (0, 1)
