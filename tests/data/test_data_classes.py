from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import DataError
from blocklora.data.classes import _is_near, label_notes, number_notes, same_words, words_of


def test_names_that_say_the_same_are_paired_with_the_first():
    names = ["golden_retriever", "Star", "golden retriever", "star", "Golden-Retriever", "sun"]
    assert same_words(names) == [
        ("golden_retriever", "golden retriever"),
        ("Star", "star"),
        ("golden_retriever", "Golden-Retriever"),
    ]
    assert same_words([" a  b", "a b", unicodedata.normalize("NFD", "É"), "é"]) == [
        (" a  b", "a b"),
        ("E\u0301", "é"),
    ]
    assert same_words(["cat", "cats", "c at"]) == []
    assert same_words(["maillot", "crane", "maillot"]) == []  # ImageNet's: one name, which is no typing error


@pytest.mark.parametrize(
    ("rare", "usual"),
    [("sqaure", "square"), ("Square", "square"), ("squar", "square"), ("squares", "square"), ("sguare", "square"),
     ("ice_cream", "ice cream"), ("Star ", "star"), ("quare", "square")],
)  # fmt: skip
def test_a_rare_label_that_is_nearly_another_is_pointed_out(rare, usual):
    (note,) = label_notes({usual: 16, rare: 1, "triangle": 16})
    assert note == (
        f"label {rare!r} has 1 image and is close to {usual!r} (16 images): if it is a typing error, correct it"
    )


@pytest.mark.parametrize(
    "counts",
    [
        {"boat": 16, "goat": 16},  # both have many
        {"cat": 100, "bat": 1},  # too short to tell
        {"class 1": 100, "class 2": 1},  # another number is another class
        {"square": 100, "saquer": 1},  # two letters
        {"7": 100, "1": 1},
        {},
    ],
)
def test_other_labels_are_not(counts):
    assert label_notes(counts) == []


def distance(a, b):
    """Return the optimal string alignment distance, by its recurrence."""
    rows = [[max(i, j) if min(i, j) == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            rows[i][j] = min(
                rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            )
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 2 : j][::-1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@given(st.text("ab", max_size=7), st.text("ab", max_size=7))
def test_near_is_a_distance_of_one(a, b):
    assert _is_near(a, b) == (distance(a, b) <= 1)


def test_names_that_are_numbers_are_pointed_out():
    (note,) = number_notes(["0", "1", "10"])
    assert note.startswith("the class names are numbers ('0', '1', '10')")
    assert number_notes(["0", "1", "ten"]) == []
    assert number_notes([]) == []


def test_words_for_labels():
    assert words_of([0, 1], None) == ("0", "1")
    assert words_of([0, 1], {1: "dog"}) == ("0", "dog")
    with pytest.raises(DataError, match=r"class_names: '0' is no label; the labels are 0, 1$"):
        words_of([0, 1], {"0": "cat"})
    with pytest.raises(
        DataError, match=r"class_names: 'dgo' is no label; did you mean 'dog'\?; the labels are 'cat'"
    ):
        words_of(["cat", "dog"], {"dgo": "hound"})
    with pytest.raises(DataError, match="class_names: 1 has the words ' ': expected text that is not blank"):
        words_of([0, 1], {1: " "})
