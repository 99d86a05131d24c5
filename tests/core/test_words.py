from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.words import count, did_you_mean, name_some, printable


@pytest.mark.parametrize(
    ("n", "nouns", "text"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("image",), "2 images"),
        (1, ("class",), "1 class"),
        (0, ("class",), "0 classes"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_a_number_has_the_right_noun(n, nouns, text):
    assert count(n, *nouns) == text


def test_five_names_are_quoted_and_the_rest_counted():
    assert name_some(["a"]) == "'a'"
    assert name_some("abcde") == "'a', 'b', 'c', 'd', 'e'"
    assert name_some("abcdefg") == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_the_nearest_word_is_guessed_whatever_its_case():
    assert did_you_mean("Digts", ["letters", "digits"]) == "; did you mean 'digits'?"
    assert did_you_mean("BLOCK-LORA", ["Block-LoRA"]) == "; did you mean 'Block-LoRA'?"
    assert did_you_mean("zebra", ["letters", "digits"]) == ""
    assert did_you_mean("zebra", []) == ""


def test_names_that_outputs_take_stay_as_they_are_and_others_get_escapes():
    assert printable("grün 字 é.png") == "grün 字 é.png"
    assert printable("a\u00a0b") == "a\u00a0b"
    assert printable("caf\udce9.png") == "caf\\udce9.png"
    assert printable("a\nb\x1b[1m") == "a\\nb\\x1b[1m"


@given(st.text())
def test_every_name_becomes_printable_text_on_one_line(name):
    shown = printable(name)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert printable(shown) == shown
