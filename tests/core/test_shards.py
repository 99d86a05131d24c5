"""Parts of a job: every name is in exactly one of them, and their names can be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.core.shards import Shard


@given(name=st.text(), of=st.integers(1, 20))
def test_every_name_is_in_one_part(name: str, of: int) -> None:
    assert sum(Shard(place, of).has(name) for place in range(1, of + 1)) == 1


def test_parts_are_of_about_one_size() -> None:
    sizes = [sum(Shard(place, 4).has(f"{n}.jpg") for n in range(4000)) for place in range(1, 5)]
    assert sum(sizes) == 4000
    assert max(sizes) - min(sizes) < 200


def test_names() -> None:
    assert Shard.parse("2/8").file(Path("x/answers.csv")) == Path("x/answers.2-of-8.csv")


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2", "٢/٣"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected I/N with I from 1 to N"):
        Shard.parse(text)
