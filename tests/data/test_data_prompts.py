from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.core.errors import ConfigError
from blocklora.data import prompts


def test_names_go_where_the_braces_are():
    assert prompts(["cat", "dog"], "a photo of a {}.") == ["a photo of a cat.", "a photo of a dog."]
    assert prompts([], "{}") == []


def test_underscores_and_outer_blanks_go():
    assert prompts(["_air_plane ", "a__b"], "{}!") == ["air plane!", "a  b!"]


def test_other_braces_and_braces_in_names_stay():
    assert prompts(["{}", "{0}"], "{x} {} {{") == ["{x} {} {{", "{x} {0} {{"]


@given(st.lists(st.text("ab{}é字", min_size=1)), st.text("xy {"), st.text("xy }"))
@settings(deadline=None)
def test_one_prompt_a_class_with_its_name_inside(names, before, after):
    found = prompts(names, before + "{}" + after)
    assert found == [before + name + after for name in names]


@pytest.mark.parametrize(("template", "times"), [("a photo", 0), ("{} and {}", 2), ("a {name}", 0), ("", 0)])
def test_a_template_without_exactly_one_place_is_refused(template, times):
    with pytest.raises(ConfigError, match=rf"holds '\{{\}}' {times} times: write '\{{\}}' exactly once"):
        prompts(["cat"], template)


@pytest.mark.parametrize("name", ["", " ", "_", "\t_ "])
def test_a_blank_class_name_is_refused(name):
    with pytest.raises(ConfigError, match="is blank in a prompt: rename the class"):
        prompts(["cat", name], "a {}.")
