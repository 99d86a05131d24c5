from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
fixed = st.builds(Choice, scalars | st.lists(scalars).map(tuple), st.just("fixed"), st.text(min_size=1))
by_validation = st.builds(
    Choice,
    scalars,
    st.just("validation"),
    st.text(),
    st.integers(1, 100),
    st.integers(1, 100),
    st.floats(0, 1),
    st.sampled_from(["accuracy", "log loss"]),
)


@given(fixed | by_validation)
def test_a_choice_survives_json(choice):
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"by": "test"}, "by is 'test'; expected 'fixed' or 'validation'"),
        ({"by": "fixed"}, "a fixed value needs a reason"),
        ({"by": "fixed", "reason": "given", "n_images": 3}, "a fixed value has no validation images"),
        ({"by": "fixed", "reason": "given", "candidates": 3}, "a fixed value has no validation images"),
        ({"by": "validation"}, "n_images is 0; expected 1 or more"),
        ({"by": "validation", "n_images": 3, "score": 0.5}, "score and score_name go together"),
        ({"by": "validation", "n_images": 3, "score_name": "recall", "score": 1.0}, "score_name is 'recall'"),
        (
            {"by": "validation", "n_images": 3, "score_name": "log loss", "score": float("inf")},
            "score is inf; expected a finite number",
        ),
        ({"by": "validation", "n_images": 3, "candidates": 0}, "candidates is 0"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(facts, message):
    with pytest.raises(ConfigError, match=message):
        Choice(1, **facts)


@pytest.mark.parametrize("facts", [{}, {"value": 1}, {"value": 1, "by": "fixed", "reason": "given", "x": 1}])
def test_other_facts_than_the_known_are_refused(facts):
    with pytest.raises(ConfigError, match="a choice has the facts"):
        Choice.from_json(facts)
