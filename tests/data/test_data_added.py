"""Labels added to a run from a CSV file."""

from __future__ import annotations

import pytest
from PIL import Image

from blocklora.core.errors import DataError
from blocklora.data import DataChoice, Dataset, Example, FewShotSplit, choose
from blocklora.data.added import with_added


@pytest.fixture
def task(tmp_path):
    """A task of two classes with words of its own, one image each, and three images beside it."""
    for name in ("a.png", "b.png", "1.png", "2.png", "3.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    examples = tuple(
        Example(f"{name}.png", label, tmp_path / f"{name}.png") for label, name in enumerate("ab")
    )
    dataset = Dataset("task", ("a cat", "a dog"), examples, (), (), found_names=("cat", "dog"))
    return dataset, FewShotSplit(examples, (), ())


def write(folder, text):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return [str(folder / "labels.csv")]


def test_rows_with_labels_train_beside_the_shots(task, tmp_path):
    text = f"\ufeffimage,why,label\n1.png,x,dog\n2.png,x,\n{tmp_path / '3.png'},x,a cat\n1.png,x,dog\n"
    found = with_added(*task, write(tmp_path, text))
    assert [(one.source.name, one.label) for one in found.train] == [
        ("a.png", 0), ("b.png", 1), ("1.png", 1), ("3.png", 0),
    ]  # fmt: skip
    assert found.train[2].image == (tmp_path / "1.png").resolve().as_posix()
    assert found.notes == ("2 training images added from 'labels.csv'; 1 row without a label left",)


def test_several_files_add_up(task, tmp_path):
    first = write(tmp_path, "image,label\n1.png,cat\n")
    (tmp_path / "more.csv").write_text("image,label\n2.png,dog\n", encoding="utf-8")
    found = with_added(*task, [*first, str(tmp_path / "more.csv")])
    assert [one.label for one in found.train] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,label\n1.png,dgo\n",
            r"row 2 has the label 'dgo', which is no class of task; did you mean 'dog'\?",
        ),
        ("image,label\n9.png,dog\n", "row 2: 9.png: there is no such file"),
        ("image,label\n1.png,dog\n1.png,cat\n", "row 3: 1.png has two labels: keep one"),
        ("image,label\na.png,dog\n", "row 2: a.png is a train image already: remove the row"),
        ("path,label\n1.png,dog\n", "found the columns 'path', 'label': expected the columns 'image'"),
        ("", "found the columns none: expected"),
    ],
)
def test_what_is_wrong_is_named(task, tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        with_added(*task, write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(task, tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: cannot be read as CSV"):
        with_added(*task, [str(tmp_path / "none.csv")])


def test_a_choice_keeps_it_only_where_it_was_asked_for(tmp_path, photos, make_photos):
    assert "add" not in DataChoice("digits").to_json()
    extra = make_photos(tmp_path / "extra", 1)
    files = write(tmp_path, f"image,label\n{extra / 'red_square' / '0.png'},red_square\n")
    choice = DataChoice(str(photos), add=files)
    assert choice.to_json()["add"] == files
    _, with_more = choose(choice, 1, 0)
    _, without = choose(DataChoice(str(photos)), 1, 0)
    assert with_more.train[:-1] == without.train
    assert with_more.train[-1].label == 2
