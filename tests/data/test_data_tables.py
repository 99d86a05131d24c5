from __future__ import annotations

import builtins
import json
import os

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.core.errors import DataError
from blocklora.data import load_dataset, open_image
from blocklora.data.assemble import in_order


def names(examples):
    return [example.image for example in examples]


@pytest.fixture
def table(make_files, tmp_path):
    """The function that writes a table beside six images."""
    make_files(*(f"p/{name}.png" for name in "abcdef"), root=".")

    def write(text, name="t.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def write_parquet(path, metadata=None, **columns):
    content = pa.table(columns)
    parquet.write_table(content.replace_schema_metadata(metadata) if metadata else content, path)
    return path


TWO_EACH = "p/a.png,cat\np/b.png,dog\np/c.png,cat\np/d.png,dog\n"


# ---- CSV


def test_a_table_with_splits(table):
    path = table(
        "image,label,split\np/b.png,dog,train\np/a.png,Cat,Train\np/c.png,dog,valid\np/d.png,Cat,TEST\n"
    )
    dataset = load_dataset(path)
    assert dataset.name == "t"
    assert dataset.class_names == ("Cat", "dog")
    assert names(dataset.train) == ["p/b.png", "p/a.png"]  # the table's order
    assert [e.label for e in dataset.train] == [1, 0]
    assert (names(dataset.val), names(dataset.test)) == (["p/c.png"], ["p/d.png"])
    assert (dataset.held_out, dataset.notes) == (False, ("1 class without test images: 'dog'",))
    assert open_image(dataset.train[0].source).size == (3, 2)


def test_of_training_and_validation_rows_without_test_rows_the_latter_are_the_test_part(table):
    rows = TWO_EACH.replace("cat\n", "cat,train\n", 1).replace("dog\n", "dog,train\n", 1)
    rows = rows.replace("cat\n", "cat,val\n").replace("dog\n", "dog,val\n")
    dataset = load_dataset(table("image,label,split\n" + rows))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (2, 0, 2)
    assert (names(dataset.test), dataset.held_out) == (["p/c.png", "p/d.png"], False)
    assert dataset.notes == (
        "no test split found: the validation split is the test part, so that no setting is chosen by it",
    )


def test_a_table_without_splits_holds_a_test_part_out(table):
    dataset = load_dataset(table("image,label\n" + TWO_EACH))
    assert (len(dataset.train), len(dataset.test)) == (2, 2)
    assert dataset.held_out
    assert load_dataset(table("image,label,split\n" + TWO_EACH.replace("\n", ",\n"))).train == dataset.train


@pytest.mark.parametrize(
    ("mark", "encoding", "newline"),
    [(",", "utf-8-sig", "\r\n"), (";", "utf-8", "\n"), ("\t", "utf-8", "\n"), (";", "utf-8-sig", "\r\n")],
)
def test_bom_semicolons_tabs_and_line_ends(table, mark, encoding, newline):
    text = "image,label\n" + TWO_EACH
    dataset = load_dataset(table(text.replace(",", mark).replace("\n", newline), encoding=encoding))
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train + dataset.test) == 4


def test_quoted_headers_other_columns_case_and_blank_lines(table):
    text = '"Label";"width";" IMAGE "\n"a; b";3;p/a.png\n\ncat;4;p/b.png\n;;\n"a; b";;p/c.png\ncat;;p/d.png\n'
    dataset = load_dataset(table(text))
    assert dataset.class_names == ("a; b", "cat")
    assert sorted(names(dataset.train + dataset.test)) == ["p/a.png", "p/b.png", "p/c.png", "p/d.png"]


def test_tsv(table):
    assert (
        len(
            load_dataset(
                table("image,label\n".replace(",", "\t") + TWO_EACH.replace(",", "\t"), "t.tsv")
            ).train
        )
        == 2
    )


def test_absolute_paths_and_folders_separated_by_backslashes(table, tmp_path):
    absolute = tmp_path / "p" / "a.png"
    dataset = load_dataset(table(f"image,label\n{absolute},x\np\\b.png,y\np\\c.png,x\np\\d.png,y\n"))
    assert set(names(dataset.train + dataset.test)) == {absolute.as_posix(), "p/b.png", "p/c.png", "p/d.png"}


def test_number_labels_are_sorted_by_value(table):
    dataset = load_dataset(table("image,label\np/a.png,10\np/b.png,9\np/c.png,10\np/d.png,9\n"))
    assert dataset.class_names == ("9", "10")


def test_repeated_rows_are_counted_and_used_once(table):
    dataset = load_dataset(table("image,label\n" + TWO_EACH + "p/a.png,cat\np/../p/a.png,cat\n"))
    assert len(dataset.train + dataset.test) == 4
    assert dataset.notes[0] == "2 rows repeating an image ignored"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            TWO_EACH + "p/x.png,cat\np/y.png,dog\n",
            r"2 image files not found \('row 6: p/x.png', 'row 7: p/y.png'\)",
        ),
        (
            TWO_EACH + "./p/a.png,dog\n",
            r"p/a.png has label 'cat' in row 2 and 'dog' in row 6: keep one label",
        ),
        (TWO_EACH + ",cat\n", "row 6 has no image: write the path of an image file"),
        (TWO_EACH + "p/e.png,\n", r"row 6 \(p/e.png\) has no label: write one"),
        (TWO_EACH + "p/e.png\n", r"row 6 \(p/e.png\) has no label: write one"),
        (TWO_EACH + "p/e.png,a,b\n", "row 6 has 3 cells but the header has 2: put quotes around"),
        ('p/a.png,"cat\n', "line 2 is not valid CSV"),
        ("", r"the table has no rows: give one row an image, with columns 'image' \(a path\), 'label'"),
        ("p/a.png,cat\np/b.png,cat\n", "all 2 images belong to one class, 'cat'"),
    ],
)
def test_rows_that_cannot_be_used_are_named(table, rows, message):
    with pytest.raises(DataError, match=message):
        load_dataset(table("image,label\n" + rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "p/a.png,cat,train\np/a.png,cat,test\n",
            r"is a train image in row 2 and a test image in row 3: keep it",
        ),
        (
            "p/a.png,cat,train\np/b.png,cat,holdout\n",
            "row 3 has split 'holdout': write train, val or test in every",
        ),
        (
            "p/a.png,cat,train\np/b.png,cat,\n",
            "row 3 has split '': write train, val or test in every row, or in none",
        ),
        (
            "p/a.png,cat,test\np/b.png,dog,test\n",
            "there are no training images: add some, or name their split",
        ),
        (
            "p/a.png,cat,train\np/b.png,dog,train\np/c.png,owl,test\n",
            "'owl' has test images but no training images: add training images, or remove the test images",
        ),
        (
            "p/a.png,cat,train\np/b.png,dog,train\np/c.png,owl,val\n",
            "'owl' has validation images but no training images",
        ),
    ],
)
def test_splits_that_cannot_be_used_are_named(table, rows, message):
    with pytest.raises(DataError, match=message):
        load_dataset(table("image,label,split\n" + rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\np/a.png,cat\n",
            r"needs columns 'image' \(a path\), 'label' .*; found are: 'path', 'label'",
        ),
        ("", "found are: none"),
        ("\n\n", "found are: none"),
        ("image,label,Image\np/a.png,cat,p/b.png\n", "column 'image' stands 2 times: keep one"),
    ],
)
def test_columns_that_are_missing_or_doubled_are_named(table, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset(table(text))


def test_a_table_in_another_encoding_is_refused(table):
    with pytest.raises(DataError, match=r"the table is not UTF-8 text .*: save it as CSV in UTF-8"):
        load_dataset(table("image,label\np/é.png,x\n", encoding="latin-1"))


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(DataError, match="no images found in this folder"):  # a folder, whatever its name
        load_dataset(tmp_path / "t.csv")


def test_a_table_that_may_not_be_read_is_named(table, monkeypatch):
    path = table("image,label\n")

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", deny)
    with pytest.raises(DataError, match=r"the table cannot be read \(Permission denied\): make it readable"):
        load_dataset(path)


# ---- Parquet


def test_parquet_with_paths(table, tmp_path):
    path = write_parquet(
        tmp_path / "t.parquet",
        image=["p/a.png", "p/b.png", "p/c.png", "p/d.png"],
        label=["dog", "cat", "dog", "cat"],
        split=["train", "train", "test", "test"],
        other=[1, 2, 3, 4],
    )
    dataset = load_dataset(path)
    assert dataset.class_names == ("cat", "dog")
    assert (names(dataset.train), names(dataset.test)) == (["p/a.png", "p/b.png"], ["p/c.png", "p/d.png"])


def test_parquet_with_the_images_inside(table, tmp_path):
    cells = [
        {"bytes": (tmp_path / "p" / f"{name}.png").read_bytes(), "path": f"{name}.png"} for name in "abc"
    ]
    cells.append({"bytes": None, "path": "p/d.png"})
    dataset = load_dataset(write_parquet(tmp_path / "t.parquet", image=cells, label=[0, 1, 0, 1]), seed=1)
    everything = sorted(dataset.train + dataset.test, key=lambda example: example.image)
    assert names(everything) == ["p/d.png", "t.parquet#1", "t.parquet#2", "t.parquet#3"]
    assert dataset.class_names == ("0", "1")
    for example, name in zip(everything, "dabc", strict=True):
        expected = open_image(tmp_path / "p" / f"{name}.png")
        assert open_image(example.source).tobytes() == expected.tobytes()


def test_parquet_with_bare_bytes(table, tmp_path):
    cells = [(tmp_path / "p" / f"{name}.png").read_bytes() for name in "abcd"]
    dataset = load_dataset(write_parquet(tmp_path / "t.parquet", image=cells, label=["x", "y", "x", "y"]))
    assert all(isinstance(example.source, bytes) for example in dataset.train)


def test_class_names_of_the_hub_and_whole_floats(table, tmp_path):
    images = [f"p/{name}.png" for name in "abcd"]
    feature = {"label": {"names": ["zebra", "ape"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    path = write_parquet(tmp_path / "t.parquet", metadata, image=images, label=[0, 1, 0, 1])
    assert load_dataset(path).class_names == ("ape", "zebra")
    path = write_parquet(
        tmp_path / "u.parquet", {"huggingface": "[]"}, image=images, label=[3.0, 0.5, 3.0, 0.5]
    )
    assert load_dataset(path).class_names == ("0.5", "3")


def test_parquet_rows_are_counted_from_one(table, tmp_path):
    images = [f"p/{name}.png" for name in "abcd"]
    path = write_parquet(tmp_path / "t.parquet", image=images, label=["x", None, "x", "y"])
    with pytest.raises(DataError, match=r"row 2 \(p/b.png\) has no label"):
        load_dataset(path)
    path = write_parquet(tmp_path / "t.parquet", image=images, label=[1.0, float("nan"), 1.0, 2.0])
    with pytest.raises(DataError, match=r"row 2 \(p/b.png\) has no label"):
        load_dataset(path)
    path = write_parquet(tmp_path / "t.parquet", image=[b"x", b""], label=["x", "y"])
    with pytest.raises(DataError, match="row 2 has no image"):
        load_dataset(path)
    path = write_parquet(tmp_path / "t.parquet", image=[b"x", b"y"], label=["x", None])
    with pytest.raises(DataError, match=r"row 2 \(an image in the table\) has no label"):
        load_dataset(path)


def test_parquet_without_columns_or_rows_and_what_is_no_parquet(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", file=["a"], label=["x"])
    with pytest.raises(DataError, match="found are: 'file', 'label'"):
        load_dataset(path)
    empty = write_parquet(
        tmp_path / "e.parquet", image=pa.array([], pa.string()), label=pa.array([], pa.string())
    )
    with pytest.raises(DataError, match="the table has no rows"):
        load_dataset(empty)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"cannot be read as Parquet .*: save it anew"):
        load_dataset(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "t.parquet", image=["a"], label=["x"])
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(DataError, match=r'pip install "blocklora\[data\]", or save the table as CSV'):
        load_dataset(path)


# ---- order


@given(st.lists(st.text("aB1029 é_", max_size=6)))
@settings(deadline=None)
def test_order_of_classes_does_not_depend_on_the_order_given(found):
    ordered = in_order(found)
    assert ordered == in_order(reversed(found))
    assert set(ordered) == set(found)
    numbers = [int(name) for name in ordered if name.isdecimal()]
    assert numbers == sorted(numbers)


# ---- how names are written


def test_names_in_another_unicode_form_find_their_files(make_files, tmp_path):
    composed, decomposed = "\u00e9", "e\u0301"
    make_files(f"{decomposed}/{decomposed}.png", f"{composed}2.png", "a.png", "b.png", root=".")
    rows = f"{composed}/{composed}.png,x\n{decomposed}2.png,y\na.png,x\nb.png,y\n{decomposed}/{decomposed}.png,x\n"
    (tmp_path / "t.csv").write_text("image,label\n" + rows, encoding="utf-8")
    dataset = load_dataset(tmp_path / "t.csv")
    found = dataset.train + dataset.test
    assert len(found) == 4
    assert dataset.notes[0] == "1 row repeating an image ignored"  # the same file, written in two ways
    assert all(open_image(example.source).size == (3, 2) for example in found)


def test_home_is_expanded_in_a_cell(table, tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    dataset = load_dataset(table("image,label\n" + TWO_EACH.replace("p/a", "~/p/a")))
    assert (tmp_path / "p" / "a.png") in {example.source for example in dataset.train + dataset.test}


def test_a_link_that_leads_nowhere_is_called_a_link(table, tmp_path):
    try:
        os.symlink(tmp_path / "gone.png", tmp_path / "p" / "link.png")
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(
        DataError, match=r"row 6: p/link.png, this is a link to .*gone.png, which is not there"
    ):
        load_dataset(table("image,label\n" + TWO_EACH + "p/link.png,cat\n"))
