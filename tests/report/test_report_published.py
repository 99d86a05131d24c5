"""Published figures keep their source, and say of themselves that they are published."""

from __future__ import annotations

import pytest

from blocklora.report import published_recipes, published_table


def test_the_few_shot_table() -> None:
    table = published_table("few-shot")
    assert (table.column, table.columns) == ("shots", ("1", "2", "4", "8", "16"))
    assert table.rows["CLIP-LoRA"] == (72.20, 75.41, 77.32, 80.10, 82.89)
    assert table.rows["linear probe"] == (45.77, 56.92, 66.79, 73.43, 78.39)
    assert "Block-LoRA" not in table.rows  # no figure of it could be read


@pytest.mark.parametrize("name", ["few-shot", "base-to-new"])
def test_every_table_is_whole(name: str) -> None:
    table = published_table(name)
    assert table.title.startswith("Published")
    assert "HealthX-Lab/CLIP-SVD, README.md, commit " in table.source
    for method, numbers in table.rows.items():
        assert len(numbers) == len(table.columns), method
        assert all(0 < number < 100 for number in numbers)


def test_harmonic_means_are_near_those_of_the_means() -> None:
    table = published_table("base-to-new")
    for method, (base, new, mean) in table.rows.items():
        near = 2 * base * new / (base + new) == pytest.approx(mean, abs=0.02)
        assert near == (f"of {method} is as printed" not in table.remark)


def test_recipes_name_their_source_and_selection() -> None:
    recipes = {recipe.method: recipe for recipe in published_recipes()}
    assert len(recipes) == 12
    assert recipes["CLIP-LoRA"].selection == "last step"
    assert "looks at test images" in recipes["Tip-Adapter-F"].selection
    assert all(recipe.source and recipe.settings for recipe in recipes.values())
