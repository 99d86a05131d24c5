"""Split files and index files: read in order, and broken ones named by their entry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import published_sampling as published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora.core.errors import DataError
from blocklora.data import DataChoice, Example, choose, few_shot, load_dataset
from blocklora.data.literature.index_files import read_index
from blocklora.data.literature.split_files import read_split_file

GOOD = {
    "train": [["b/1.jpg", 1, "bee"], ["a/1.jpg", 0, "ant"], ["a/2.jpg", 0, "ant"]],
    "val": [["a/3.jpg", 0, "ant"]],
    "test": [["b/2.jpg", 1, "bee"]],
}


@pytest.fixture
def read(tmp_path):
    """The function that writes a split file and reads it."""

    def write_and_read(content):
        path = tmp_path / "split_zhou_Made.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_split_file(path, tmp_path / "images")

    return write_and_read


def test_a_good_file(read, tmp_path):
    found = read(GOOD)
    assert found.class_names == ("ant", "bee")
    assert [(e.image, e.label) for e in found.parts["train"]] == [
        ("b/1.jpg", 1),
        ("a/1.jpg", 0),
        ("a/2.jpg", 0),
    ]
    assert found.parts["test"][0].source == tmp_path / "images" / "b/2.jpg"


@pytest.mark.parametrize(
    ("part", "entries", "message"),
    [
        (
            "test",
            [["../../secret.jpg", 0, "ant"]],
            r"test\[0\] '\.\./\.\./secret\.jpg' leaves the image folder",
        ),
        ("val", [["/etc/passwd", 0, "ant"]], r"val\[0\] '/etc/passwd' leaves the image folder"),
        ("val", [["C:\\x.jpg", 0, "ant"]], r"val\[0\] .* leaves the image folder"),
        ("val", [["a\\..\\..\\x.jpg", 0, "ant"]], r"val\[0\] .* leaves the image folder"),
        (
            "test",
            [["a/1.jpg", 0, "ant"]],
            r"test\[0\] 'a/1\.jpg' with label 0 stands in train with label 0 as well",
        ),
        (
            "val",
            [["a/9.jpg", 0, "ant"], ["a/9.jpg", 1, "bee"]],
            r"val\[1\] 'a/9\.jpg' with label 1 stands in val with",
        ),
        ("val", [["c/1.jpg", 3, "cat"]], r"there is no label 2, but a label 3 \('cat'\)"),
        ("val", [["c/1.jpg", 2, "cat"]], "no training images for 'cat'"),
        ("val", [["c/1.jpg", -1, "cat"]], r"but a label -1 \('cat'\)|no label"),
        ("val", [["a/9.jpg", 0, "aunt"]], r"val\[0\] 'a/9\.jpg': label 0 is 'aunt' here but 'ant' before"),
        (
            "val",
            [["a/9.jpg", "0", "ant"]],
            r"val\[0\] is \[.a/9\.jpg., .0., .ant.\]: expected \[relative path, label",
        ),
        ("val", [["a/9.jpg", True, "ant"]], r"val\[0\] is "),
        ("val", [["a/9.jpg", 0]], r"val\[0\] is "),
        ("val", ["a/9.jpg"], r"val\[0\] is "),
        ("val", [["a/9.jpg", 0, " "]], r"val\[0\] is "),
        ("val", {"a": 1}, "this is no split file"),
    ],
)
def test_a_broken_entry_is_named(part, entries, message, read):
    with pytest.raises(DataError, match=message):
        read(GOOD | {part: entries})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [', r"split_zhou_Made\.json: line 1, column 12 is not JSON"),
        ("[]", "this is no split file: expected an object with lists"),
        ({"train": [], "val": []}, "this is no split file"),
    ],
)
def test_a_file_that_is_no_split_file(content, message, read):
    with pytest.raises(DataError, match=message):
        read(content)


@given(st.text(max_size=12))
@settings(deadline=None)
def test_no_path_reaches_outside(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("s")
    content = GOOD | {"val": [[name, 0, "ant"]]}
    (folder / "s.json").write_text(json.dumps(content), encoding="utf-8")
    try:
        found = read_split_file(folder / "s.json", folder / "images")
    except DataError:
        return
    source = Path(str(found.parts["val"][0].source).replace("\0", "0"))
    assert (folder / "images").resolve() in (source.resolve(), *source.resolve().parents)


# ---- index files


def write_index(path, name, split, form):
    """Write a sample as one of the forms that are read."""
    lists = {"train": split.train, "val": split.val}
    rows = {
        part: [(f"./data/{name}/images/{e.image}", e.label) for e in examples]
        for part, examples in lists.items()
    }
    if form == "cross-modal":
        content = {
            part: {"data": [{"impath": p, "label": n, "classname": "x"} for p, n in held], "indices": []}
            for part, held in rows.items()
        }
    elif form == "zhou":
        content = {part: [[p, n, "x"] for p, n in held] for part, held in rows.items()}
    elif form == "paths":
        content = {part: [p for p, _ in held] for part, held in rows.items()}
    elif form == "run":
        content = {part: [{"image": e.image, "label": e.label} for e in held] for part, held in lists.items()}
    else:
        lines = [json.dumps({"path": p, "split": part}) for part, held in rows.items() for p, _ in held]
        path = path.with_suffix(".jsonl")
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return path
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["cross-modal", "zhou", "paths", "run", "jsonl"])
def test_an_index_file_takes_the_place_of_sampling(form, mini_root, tmp_path):
    sample = few_shot(load_dataset("dtd", root=mini_root), 4, 3)
    path = write_index(tmp_path / "index.json", "dtd", sample, form)
    _, split = choose(DataChoice("dtd", str(mini_root), index=str(path)), 16, 1)
    assert (split.train, split.val, split.test) == (sample.train, sample.val, sample.test)
    assert split.notes[0] == f"24 images taken from {path.name}; nothing was sampled"


def test_a_plain_list_trains(mini_root, tmp_path):
    dataset = load_dataset("dtd", root=mini_root)
    names = [image for image, _ in published.coop("dtd", 2, 1)[0]]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(names), encoding="utf-8")
    split = read_index(path, dataset)
    assert [e.image for e in split.train] == names
    assert split.val == ()
    assert split.notes[-1] == "no validation images: the index file names none"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["banded/nowhere.jpg"]}, r"train\[0\] 'banded/nowhere\.jpg' is no image of the data set"),
        ({"train": ["TEST"]}, r"train\[0\] '.*' is a test image: an index file names images to train on"),
        ({"train": ["FIRST"], "val": ["FIRST"]}, r"val\[0\] '.*' stands in train as well"),
        ({"train": [["FIRST", 2, "x"]]}, r"train\[0\] '.*' has label 2, but 0 in dtd"),
        ({"train": ["FIRST"]}, "names no training image for 'polka-dotted', 'zigzagged'"),
        ({"train": [7]}, r"train\[0\] is 7: expected lists of paths"),
        ({"val": ["FIRST"]}, "this is no index file"),
        ({"train": "FIRST"}, "this is no index file"),
        (7, "this is no index file"),
    ],
)
def test_a_broken_index_file_is_named(content, message, mini_root, tmp_path):
    dataset = load_dataset("dtd", root=mini_root)
    text = json.dumps(content).replace("FIRST", dataset.train[0].image).replace("TEST", dataset.test[0].image)
    path = tmp_path / "index.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_index(path, dataset)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ('{"image": "x", "split": "test"}', "line 2 has split 'test': expected train or val"),
    ],
)
def test_a_broken_line_is_named(line, message, mini_root, tmp_path):
    dataset = load_dataset("dtd", root=mini_root)
    path = tmp_path / "index.jsonl"
    path.write_text(json.dumps({"image": dataset.train[0].image}) + "\n" + line, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_index(path, dataset)
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read"):
        read_index(tmp_path / "nowhere.jsonl", dataset)


# ---- other words for the classes


@pytest.mark.parametrize(
    ("name", "text"),
    [("names.txt", "stripes\ndots\nzigzag\n"), ("names.json", '["stripes", "dots", "zigzag"]'),
     ("map.json", '{"banded": "stripes", "polka-dotted": "dots", "zigzagged": "zigzag"}')],
)  # fmt: skip
def test_class_names_can_be_replaced(name, text, mini_root, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    dataset, _ = choose(DataChoice("dtd", str(mini_root), class_names=str(tmp_path / name)), 1, 1)
    assert dataset.class_names == ("stripes", "dots", "zigzag")
    assert dataset.notes[-1] == f"class names are those of {name}"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("n.txt", "one\ntwo\n", "expected 3 class names"), ("n.json", '["a", "b", 3]', "expected 3 class names"),
     ("n.json", '{"bandit": "x"}', "'bandit' is no class of dtd"), ("n.txt", None, r"n\.txt: cannot be read")],
)  # fmt: skip
def test_class_names_that_do_not_fit(name, text, message, mini_root, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        choose(DataChoice("dtd", str(mini_root), class_names=str(tmp_path / name)), 1, 1)


def test_a_choice_is_kept_with_absolute_paths(mini_root, monkeypatch):
    monkeypatch.chdir(mini_root)
    kept = DataChoice("dtd", ".", index="i.json").to_json()
    assert kept["root"] == str(mini_root.resolve())
    assert kept["index"] == str(mini_root.resolve() / "i.json")
    assert (kept["data"], kept["classes"]) == ("dtd", None)
    assert DataChoice("dtd").to_json()["data"] == str(
        mini_root.resolve() / "dtd"
    )  # a folder of that name is there


def test_an_index_names_images_in_another_unicode_form(make_dataset, tmp_path):
    dataset = make_dataset([0, 1])
    composed, decomposed = "caf\u00e9.png", "cafe\u0301.png"
    named = [
        Example(name, e.label, e.source) for name, e in zip((decomposed, "b.png"), dataset.train, strict=True)
    ]
    path = tmp_path / "index.json"
    path.write_text(json.dumps([composed, "b.png"]), encoding="utf-8")
    assert read_index(path, replace(dataset, train=tuple(named))).train == tuple(named)
