from __future__ import annotations

import json
import os
import shutil
import unicodedata

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from blocklora.core.errors import DataError
from blocklora.core.files import write_json
from blocklora.data import (
    DataChoice,
    FewShotSplit,
    choose,
    read_labelled,
    read_split_part,
    seen_images,
    split_record,
)


def names(examples):
    return [example.image for example in examples]


def run(choice, tmp_path, shots=1):
    """Return the record of a run, as it comes back from split.json, and its split."""
    dataset, split = choose(choice, shots, 1)
    write_json(tmp_path / "split.json", split_record(split, dataset.class_names))
    return json.loads((tmp_path / "split.json").read_text(encoding="utf-8")), split


def without_hashes(record):
    """Return a record as older versions wrote it."""
    parts = {part: [{k: v for k, v in item.items() if k != "sha256"} for item in record[part]]
             for part in ("train", "val", "test")}  # fmt: skip
    return {"hash": record["hash"], **parts}


# ---- read_labelled


@pytest.mark.parametrize("files", [("cat/1.png", "cat/2.png"), ("cat/1.png", "dog/1.png"), ("cat/1.png",)])
def test_one_class_or_one_image_a_class_is_enough(make_files, files):
    found = read_labelled(DataChoice(str(make_files(*files))))
    assert names(found.images) == sorted(files)
    assert found.class_names == tuple(sorted({file.split("/")[0] for file in files}))
    assert found.notes == ()


def test_nothing_is_held_out_of_a_folder_and_no_number_is_drawn(make_files):
    root = make_files(*(f"{name}/{i}.png" for name in "ab" for i in range(8)))
    found = read_labelled(DataChoice(str(root)))
    assert len(found.images) == 16
    assert [e.label for e in found.images] == [0] * 8 + [1] * 8
    assert not any("held out" in note for note in found.notes)


def test_of_data_with_a_test_part_that_is_read_and_said(make_files):
    root = make_files(
        *(f"{part}/{name}/{i}.png" for part in ("train", "val", "test") for name in "ab" for i in "12")
    )
    found = read_labelled(DataChoice(str(root)))
    assert names(found.images) == [f"test/{name}/{i}.png" for name in "ab" for i in "12"]
    assert found.notes == ("photos has a test part: its 4 images of 12 are read, the others are not",)


def test_a_test_folder_alone_and_classes_that_were_never_trained(make_files):
    root = make_files("test/a/1.png", "test/c/1.png")
    assert read_labelled(DataChoice(str(root))).class_names == ("a", "c")
    more = make_files("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png", root="more")
    found = read_labelled(DataChoice(str(more)))
    assert found.class_names == ("a", "b", "c")
    assert [found.class_names[e.label] for e in found.images] == ["a", "c"]


def test_an_empty_class_folder_is_no_matter_for_a_test(make_files):
    root = make_files("a/1.png", "b/readme.txt")
    found = read_labelled(DataChoice(str(root)))
    assert (found.class_names, len(found.images)) == (("a",), 1)


def test_doubtful_layouts_are_refused_for_a_test_as_well(make_files):
    with pytest.raises(DataError, match="splits lie above the classes"):
        read_labelled(DataChoice(str(make_files("cat/train/1.png", "cat/test/1.png"))))


@pytest.mark.parametrize(
    ("splits", "expected"), [(("", ""), 2), (("train", "test"), 1), (("test", "test"), 2)]
)
def test_tables(make_files, tmp_path, splits, expected):
    make_files("p/1.png", "p/2.png", root=".")
    rows = "".join(f"p/{i}.png,cat,{split}\n" for i, split in enumerate(splits, start=1))
    (tmp_path / "t.csv").write_text("image,label,split\n" + rows, encoding="utf-8")
    assert len(read_labelled(DataChoice(str(tmp_path / "t.csv"))).images) == expected


def test_named_and_bundled_sets_give_their_test_part(mini_root):
    found = read_labelled(DataChoice("eurosat", root=str(mini_root)))
    dataset, split = choose(DataChoice("eurosat", root=str(mini_root)), 1, 1)
    assert found.images == split.test
    assert found.class_names == dataset.class_names
    shifted = read_labelled(DataChoice("imagenet_a", root=str(mini_root)))
    assert shifted.images
    digits = read_labelled(DataChoice("digits"))
    assert len(digits.images) == 891
    assert digits.notes[-1] == "digits has a test part: its 891 images of 1797 are read, the others are not"


def test_other_words_and_halves_of_the_classes(make_files, tmp_path):
    root = make_files(*(f"{name}/1.png" for name in "abcd"))
    (tmp_path / "words.txt").write_text("w\nx\ny\nz\n", encoding="utf-8")
    choice = DataChoice(str(root), classes="new", class_names=str(tmp_path / "words.txt"))
    found = read_labelled(choice)
    assert (found.class_names, found.found_names) == (("y", "z"), ("c", "d"))
    assert [(e.image, e.label) for e in found.images] == [("c/1.png", 0), ("d/1.png", 1)]


def test_images_that_are_missing_are_named(mini_root, tmp_path):
    root = tmp_path / "mini"
    shutil.copytree(mini_root, root)
    gone = read_labelled(DataChoice("eurosat", root=str(root))).images[0]
    gone.source.unlink()
    with pytest.raises(DataError, match=r"eurosat: 1 image of \d+ not found \('.*'\): put them back"):
        read_labelled(DataChoice("eurosat", root=str(root)))


# ---- read_split_part


@pytest.fixture
def photos_run(make_files, tmp_path):
    """A folder, its choice, the record of a run on it, and the run's split."""
    root = make_files(*(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(8)))
    choice = DataChoice(str(root))
    return root, choice, *run(choice, tmp_path)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_parts_of_a_run_come_back(photos_run, part):
    _, choice, record, split = photos_run
    found = read_split_part(record, part, choice)
    assert found.images == getattr(split, part)
    assert (found.problems, found.notes) == ((), ())


def test_other_images_and_class_folders_may_come_and_go(photos_run):
    root, choice, record, split = photos_run
    kept = {e.image for e in (*split.test, *split.val)}
    shutil.copy(root / "cat" / "1.png", root / "cat" / "0a.png")
    shutil.copytree(root / "cat", root / "bird")
    (root / "empty").mkdir()
    for path in root.rglob("*.png"):
        if path.relative_to(root).as_posix() not in kept and path.parent.name != "bird":
            path.unlink()
    assert read_split_part(record, "test", choice).images == split.test
    (root / "bird" / "extra").mkdir()
    assert not read_split_part(record, "val", choice).problems


def test_a_replaced_and_a_missing_image_are_named(photos_run):
    _, choice, record, split = photos_run
    replaced, gone, *rest = split.test
    replaced.source.write_bytes(split.train[0].source.read_bytes())
    gone.source.unlink()
    found = read_split_part(record, "test", choice)
    assert found.images == tuple(rest)
    reasons = {problem.image: problem.reason for problem in found.problems}
    assert set(reasons) == {replaced.image, gone.image}
    assert f"{replaced.source}: was replaced since the run: its content is another" in reasons[replaced.image]
    assert f"{gone.source}: there is no such file, but the run used it: put it back" in reasons[gone.image]


def test_data_that_moved_is_found_where_it_is_said_to_be(photos_run, tmp_path):
    root, choice, record, split = photos_run
    shutil.move(root, tmp_path / "elsewhere")
    assert len(read_split_part(record, "test", choice).problems) == len(split.test)
    found = read_split_part(record, "test", DataChoice(str(tmp_path / "elsewhere")))
    assert names(found.images) == names(split.test)
    shutil.move(tmp_path / "elsewhere", root)
    assert read_split_part(record, "test", DataChoice("gone")).images == split.test  # where it was


def test_an_old_record_without_hashes_is_read_and_says_so(photos_run):
    _, choice, record, split = photos_run
    old = without_hashes(record)
    found = read_split_part(old, "test", choice)
    assert found.images == split.test
    (note,) = found.notes
    assert note == "4 test images recorded without a hash: whether they were replaced since is not known"


def test_names_in_another_unicode_form_are_found(make_files, tmp_path):
    composed, decomposed = "é", "e\u0301"
    root = make_files(*(f"{composed}/{composed}{i}.png" for i in range(4)), *(f"b/{i}.png" for i in range(4)))
    record, split = run(DataChoice(str(root)), tmp_path)
    for path in sorted(root.rglob("*"), reverse=True):  # as a copy by way of a Mac leaves them
        os.rename(path, path.with_name(unicodedata.normalize("NFD", path.name)))
    assert (root / decomposed).is_dir()
    found = read_split_part(record, "test", DataChoice(str(root)))
    assert names(found.images) == names(split.test)
    assert not found.problems


@pytest.mark.skipif(
    os.name == "nt" or os.uname().sysname != "Linux", reason="other systems refuse such names"
)
def test_names_that_are_no_unicode_are_found(make_files, tmp_path):
    root = make_files(*(f"{name}/{i}.png" for name in "ab" for i in range(4)))
    for path in sorted(root.rglob("*.png")):
        os.rename(path, os.fsencode(path)[:-4] + b"\xe9.png")
    record, split = run(DataChoice(str(root)), tmp_path)
    found = read_split_part(record, "test", DataChoice(str(root)))
    assert found.images == split.test


def test_tables_with_paths_of_every_kind(make_files, tmp_path):
    make_files(*(f"p/{name}/{i}.png" for name in "ab" for i in range(4)), root=".")
    (tmp_path / "tables").mkdir()
    rows = [f"{tmp_path / 'p' / 'a' / f'{i}.png'},a" for i in range(4)] + [
        f"../p/b/{i}.png,b" for i in range(4)
    ]
    table = tmp_path / "tables" / "t.csv"
    table.write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    record, split = run(DataChoice(str(table)), tmp_path)
    table.write_text("\n".join(["image,label", *rows[::-1]]), encoding="utf-8")  # another order
    found = read_split_part(record, "test", DataChoice(str(table)))
    assert names(found.images) == names(split.test)
    assert not found.problems


def test_rows_of_a_parquet_table(make_files, tmp_path):
    root = make_files(*(f"{i}.png" for i in range(8)))
    contents = [(root / f"{i}.png").read_bytes() for i in range(8)]
    table = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"image": contents, "label": list("aaaabbbb")}), table)
    record, split = run(DataChoice(str(table)), tmp_path)
    assert record["folder"] is None
    assert read_split_part(record, "test", DataChoice(str(table))).images == split.test
    parquet.write_table(pa.table({"image": contents[::-1], "label": list("aaaabbbb")}), table)
    assert len(read_split_part(record, "test", DataChoice(str(table))).problems) == len(split.test)


@pytest.mark.parametrize("data", ["digits", "eurosat"])
def test_bundled_and_named_sets(data, mini_root, tmp_path):
    choice = DataChoice(data, root=None if data == "digits" else str(mini_root))
    record, split = run(choice, tmp_path)
    found = read_split_part(record, "test", choice)
    assert names(found.images) == names(split.test)
    assert not found.problems


def test_a_half_of_the_classes_keeps_the_runs_labels(make_files, tmp_path):
    root = make_files(*(f"{name}/{i}.png" for name in "abcd" for i in range(4)))
    record, split = run(DataChoice(str(root), classes="new"), tmp_path)
    assert read_split_part(record, "test", DataChoice(str(root))).images == split.test
    assert {e.label for e in split.test} == {0, 1}


@pytest.mark.parametrize("record", [{}, {"test": {}}, {"test": [3]}, {"test": [{"image": "a"}]}])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(DataError, match=r"split\.json: expected a list 'test' of images"):
        read_split_part(record, "test", DataChoice("digits"))


# ---- seen_images


def test_images_that_were_trained_or_validated_on_are_told_by_content(photos_run, tmp_path):
    root, choice, record, split = photos_run
    elsewhere = tmp_path / "copy"
    shutil.copytree(root, elsewhere)
    os.rename(elsewhere / "cat", elsewhere / "katze")
    examples = read_labelled(DataChoice(str(elsewhere))).images
    seen = seen_images(record, examples, choice)
    trained = {e.image for e in (*split.train, *split.val)}
    assert set(seen.values()) == trained
    assert {examples[place].image.replace("katze", "cat") for place in seen} == trained
    assert seen_images(record, split.test, choice) == {}
    assert seen_images(without_hashes(record), examples, choice) == seen


def test_an_image_that_cannot_be_read_is_not_one_of_them(photos_run):
    _, choice, record, split = photos_run
    split.test[0].source.unlink()
    assert seen_images(record, (*split.test, *split.train), choice) == {
        len(split.test) + n: e.image for n, e in enumerate(split.train)
    }


def test_images_in_memory_are_told_too(tmp_path):
    choice = DataChoice("digits")
    dataset, split = choose(choice, 1, 1)
    record = split_record(FewShotSplit(split.train, (), ()), dataset.class_names)
    assert list(seen_images(record, split.train, choice).values()) == names(split.train)
    assert not seen_images(record, split.val, choice)
