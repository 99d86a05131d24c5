from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.data import few_shot
from blocklora.data.sampling import _few

labels = st.lists(st.integers(0, 4), min_size=1, max_size=60)
shots = st.integers(1, 20)
seeds = st.integers(0, 2**40)


def places(examples):
    return [int(example.image.split("/")[1]) for example in examples]


def test_golden_vector_of_seed_1(make_dataset):
    # two draws on one stream, 4 of 30 and then 16 of 30, as CoOp's published index files have them
    pool, rng = make_dataset([0] * 30).train, random.Random(1)
    assert places(_few(pool, 4, rng)) == [4, 18, 27, 25]
    assert places(_few(pool, 16, rng)) == [24, 2, 8, 3, 15, 29, 14, 25, 20, 12, 6, 26, 22, 0, 21, 19]


def test_train_is_drawn_before_validation_on_one_stream(make_dataset):
    split = few_shot(make_dataset([0] * 30, [0] * 30), 4, seed=1)
    rng = random.Random(1)
    assert places(split.train) == [4, 18, 27, 25] == rng.sample(range(30), 4)
    assert places(split.val) == rng.sample(range(30), 4)


@given(labels, labels, shots, seeds)
@settings(deadline=None)
def test_a_slow_reference_in_the_words_of_the_protocol(make_dataset, train, val, k, seed):
    def few(items, k):
        order = sorted(set(items), key=items.index)
        groups = [[place for place, label in enumerate(items) if label == wanted] for wanted in order]
        return [p for group in groups for p in (rng.sample(group, k) if len(group) >= k else group)]

    split = few_shot(make_dataset(train, val), k, seed)
    rng = random.Random(seed)
    assert places(split.train) == few(train, k)
    assert places(split.val) == few(val, min(k, 4))


@given(labels, labels, shots, seeds)
@settings(deadline=None)
def test_counts_subset_and_order_of_first_appearance(make_dataset, train, val, k, seed):
    dataset = make_dataset(train, val)
    split = few_shot(dataset, k, seed)
    for chosen, pool, wanted in ((split.train, dataset.train, k), (split.val, dataset.val, min(k, 4))):
        have, take = Counter(e.label for e in pool), Counter(e.label for e in chosen)
        assert take == {label: min(n, wanted) for label, n in have.items()}
        assert {e.image for e in chosen} <= {e.image for e in pool}
        assert len({e.image for e in chosen}) == len(chosen)  # nothing is repeated
        assert list(take) == list(have)
        runs = [e.label for e in chosen]
        assert runs == sorted(runs, key=list(have).index)  # the images of a class stand together
    assert split.test == dataset.test


@given(labels, shots, seeds)
@settings(deadline=None)
def test_without_validation_split_both_parts_share_no_image(make_dataset, train, k, seed):
    dataset = make_dataset(train)
    split = few_shot(dataset, k, seed)
    used, kept = {e.image for e in split.train}, {e.image for e in split.val}
    assert not used & kept
    left = Counter(e.label for e in dataset.train) - Counter(e.label for e in split.train)
    assert Counter(e.label for e in split.val) == {label: min(n, k, 4) for label, n in left.items()}


@given(labels, labels, shots, seeds)
@settings(deadline=None)
def test_same_seed_same_split_and_the_global_generator_is_left_alone(make_dataset, train, val, k, seed):
    dataset = make_dataset(train, val)
    state = random.getstate()
    assert few_shot(dataset, k, seed) == few_shot(dataset, k, seed)
    assert random.getstate() == state


def test_another_seed_is_another_split(make_dataset):
    dataset = make_dataset([0] * 50)
    assert len({tuple(places(few_shot(dataset, 5, seed).train)) for seed in range(20)}) == 20


def test_all_shots_draw_nothing(make_dataset):
    dataset = make_dataset([1, 0, 1], [0])
    split = few_shot(dataset, None, seed=3)
    assert (split.train, split.val, split.test, split.notes) == (dataset.train, dataset.val, dataset.test, ())


def test_all_shots_without_validation_split_say_so(make_dataset):
    split = few_shot(make_dataset([1, 0, 1]), None, seed=3)
    assert split.val == ()
    assert split.notes == ("no validation images: every training image is used for training",)


def test_equal_images_in_memory_are_still_two(make_dataset):
    dataset = make_dataset([0, 0, 0])
    assert dataset.train[0].source is dataset.train[1].source
    split = few_shot(dataset, 1, seed=0)
    assert (len(split.train), len(split.val)) == (1, 1)
    assert split.notes == (
        "no validation split: validation images are drawn from the training images that the shots left over",
    )


def test_a_pool_used_up_by_the_shots_says_so(make_dataset):
    split = few_shot(make_dataset([0, 1]), 1, seed=0)
    assert split.val == ()
    assert split.notes == (
        "no validation images: there is no validation split and the shots use every training image",
    )


def test_short_classes_are_named_with_their_counts(make_dataset):
    split = few_shot(make_dataset([0] * 3 + [1] * 2 + [2], [0]), 3, seed=0)
    assert split.notes == (
        "fewer than 3 training images in 2 of 3 classes, all of them used: class 1 (2), class 2 (1)",
    )


def test_many_short_classes_are_cut_after_five(make_dataset):
    (note,) = few_shot(make_dataset(list(range(7)), [0]), 2, seed=0).notes
    assert note.endswith("class 3 (1), class 4 (1), ...")
    assert "7 of 7 classes" in note


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "4", True, np.float64(4)])
def test_shots_that_are_no_count_are_refused(make_dataset, wrong):
    with pytest.raises(
        ConfigError, match="give a whole number of images a class, 1 or more, or None for all"
    ):
        few_shot(make_dataset([0, 1]), wrong, seed=0)


# ---- clip-lora


@given(labels, labels, shots, seeds)
@settings(deadline=None)
def test_clip_lora_against_a_slow_reference(make_dataset, train, val, k, seed):
    def groups(items):
        order = sorted(set(items), key=items.index)
        return [[place for place, label in enumerate(items) if label == wanted] for wanted in order]

    split = few_shot(make_dataset(train, val), k, seed, "clip-lora")
    rng, n = random.Random(seed), min(k, 4)
    drawn = [p for g in groups(val) for p in (rng.sample(g, n) if len(g) >= n else rng.choices(g, k=n))]
    assert places(split.val) == drawn
    drawn = [p for g in groups(train) for p in (rng.sample(g, k) if len(g) >= k else rng.choices(g, k=k))]
    assert places(split.train) == drawn


@given(labels, shots, seeds)
@settings(deadline=None)
def test_clip_lora_without_validation_split_draws_both_at_once(make_dataset, train, k, seed):
    split = few_shot(make_dataset(train), k, seed, "clip-lora")
    rng = random.Random(seed)
    for label in dict.fromkeys(train):
        group = [place for place, own in enumerate(train) if own == label]
        drawn = rng.sample(group, min(k + min(k, 4), len(group)))
        assert [int(e.image.split("/")[1]) for e in split.train if e.label == label] == drawn[:k]
        assert [int(e.image.split("/")[1]) for e in split.val if e.label == label] == drawn[k:]
    assert not {e.image for e in split.train} & {e.image for e in split.val}


def test_repeats_are_told(make_dataset):
    notes = few_shot(make_dataset([0] * 9 + [1] * 2, [0] * 9 + [1]), 4, 1, "clip-lora").notes
    assert notes == (
        "fewer than 4 training images in 1 of 2 classes, filled up with repeats: class 1 (2)",
        "fewer than 4 validation images in 1 class, filled up with repeats: 'class 1'",
    )


def test_a_protocol_that_does_not_exist(make_dataset):
    with pytest.raises(ConfigError, match="protocol 'dassl': expected one of coop, clip-lora"):
        few_shot(make_dataset([0, 1]), 1, 0, "dassl")
