from __future__ import annotations

import os
import sys
import unicodedata

import pytest
from PIL import Image

from blocklora.core.errors import DataError
from blocklora.data import image_files, load_dataset, open_image


def names(examples):
    return [example.image for example in examples]


def links_work(folder):
    try:
        os.symlink(folder, folder / "link", target_is_directory=True)
    except OSError:
        return False
    (folder / "link").unlink()
    return True


# ---- what is found


def test_class_folders_with_a_test_part_held_out(make_files):
    root = make_files(*(f"{name}/{i}.png" for name in ("dog", "Cat") for i in range(8)))
    dataset = load_dataset(root, seed=3)
    assert dataset.name == "photos"
    assert dataset.class_names == ("Cat", "dog")  # case does not order
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (12, 0, 4)
    assert [e.label for e in dataset.test] == [0, 0, 1, 1]
    everything = names(dataset.train) + names(dataset.test)
    assert sorted(everything) == sorted(f"{name}/{i}.png" for name in ("Cat", "dog") for i in range(8))
    assert names(dataset.train) == sorted(names(dataset.train))
    assert dataset.held_out
    assert dataset.notes[0].startswith(
        "no test split found: 25% of each class (4 of 16 images) is held out as the test set with seed 3; "
    )
    for example in dataset.train:
        assert example.source == root / example.image
        assert open_image(example.source).size == (3, 2)


def test_the_seed_and_nothing_else_chooses_what_is_held_out(make_files):
    root = make_files(*(f"{name}/{i:02}.png" for name in "ab" for i in range(40)))
    first = load_dataset(root, seed=0)
    assert load_dataset(str(root), seed=0) == first
    assert names(load_dataset(root, seed=1).test) != names(first.test)


@pytest.mark.parametrize(("n", "held"), [(1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (10, 3), (100, 25)])
def test_a_quarter_is_held_out_but_never_all(make_files, n, held):
    root = make_files(*(f"a/{i}.png" for i in range(n)), "b/1.png", "b/2.png")
    dataset = load_dataset(root)
    assert [e.label for e in dataset.test].count(0) == held
    assert [e.label for e in dataset.train].count(0) == n - held


def test_a_class_of_one_image_trains_and_is_named(make_files):
    dataset = load_dataset(make_files("a/1.png", "b/1.png", "b/2.png"))
    assert names(dataset.train)[0] == "a/1.png"
    assert dataset.notes[-1] == "1 class with one image, used for training: 'a'"


def test_one_image_in_every_class_leaves_nothing_to_test_on(make_files):
    with pytest.raises(
        DataError, match="every class has one image, so nothing is left to test on: add a second"
    ):
        load_dataset(make_files("a/1.png", "b/1.png"))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "VALID", "Test"),
        ("TRAINING", "validation", "testing"),
    ],
)
def test_splits_in_several_spellings(make_files, train, val, test):
    root = make_files(
        *(f"{part}/{name}/{i}.png" for part in (train, val, test) for name in "ba" for i in "21")
    )
    dataset = load_dataset(root)
    assert dataset.class_names == ("a", "b")
    for part, examples in ((train, dataset.train), (val, dataset.val), (test, dataset.test)):
        assert names(examples) == [f"{part}/{name}/{i}.png" for name in "ab" for i in "12"]
        assert [e.label for e in examples] == [0, 0, 1, 1]
    assert not dataset.held_out
    assert dataset.notes == ()


def test_of_train_and_val_without_test_val_is_the_test_part(make_files):
    root = make_files(
        *(f"{part}/{name}/{i}.png" for part in ("train", "valid") for name in "ab" for i in "1234"),
        "test/unlabelled.png",
    )
    dataset = load_dataset(root)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (8, 0, 8)
    assert all(name.startswith("valid/") for name in names(dataset.test))
    assert not dataset.held_out
    assert (
        dataset.notes[-1]
        == "no test split found: 'valid' is the test part, so that no setting is chosen by it"
    )


@pytest.mark.parametrize(
    ("train", "test"),
    [("training_set", "test_set"), ("seg_train", "seg_test"), ("TrainingData", "TestData"), ("train2017", "val2017"),
     ("my train images", "my test images"), ("train", "test_set"), ("train-set", "testing")],
)  # fmt: skip
def test_folders_with_longer_names_that_hold_the_same_classes_are_splits(make_files, train, test):
    root = make_files(
        *(f"{part}/{name}/{i}.png" for part in (train, test) for name in ("cat", "dog") for i in "123")
    )
    dataset = load_dataset(root)
    assert dataset.class_names == ("cat", "dog")
    assert {name.split("/")[0] for name in names(dataset.train)} == {train}
    assert {name.split("/")[0] for name in names(dataset.test)} == {test}
    assert "read as splits: " in dataset.notes[0]
    assert f"{test!r} as " in dataset.notes[0] or test == "testing"


def test_kaggles_folder_of_unlabelled_images_beside_such_splits_is_named(make_files):
    root = make_files(
        *(f"{part}/{name}/1.png" for part in ("seg_train", "seg_test") for name in "ab"), "seg_pred/1.png"
    )
    dataset = load_dataset(root)
    assert dataset.class_names == ("a", "b")
    assert any("no split with class folders ignored: 'seg_pred'" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "files",
    [
        ("train_set/a/1.png", "train_set/b/1.png", "test_set/a/1.png"),  # a class less
        ("train_set/a/1.png", "test_set/a/1.png"),  # one class
        ("train_1/a/1.png", "train_2/a/1.png", "test_1/a/1.png"),  # two of a kind
        ("train_set/a/1.png", "train_set/b/1.png", "test_set/a/1.png", "test_set/b/1.png", "bus/1.png"),
        ("train_set/a/1.png", "train_set/b/1.png", "test_set/a/1.png", "test_set/b/1.png", "bus/a/1.png"),
    ],
)
def test_folders_that_can_be_splits_or_classes_are_refused_with_the_question(make_files, files):
    with pytest.raises(DataError, match=r"hold some of the same folders .*: are they splits"):
        load_dataset(make_files(*files))


def test_classes_whose_names_speak_of_tests_and_trains_are_classes(make_files):
    dataset = load_dataset(
        make_files(*(f"{name}/{i}.png" for name in ("train_station", "test tube", "bus") for i in "12"))
    )
    assert dataset.class_names == ("bus", "test tube", "train_station")
    deeper = make_files(
        *(f"{name}/1.png" for name in ("train_a/x", "train_a/y", "test_b/z", "test_b/w")), root="d"
    )
    assert load_dataset(deeper).class_names == ("test_b", "train_a")


@pytest.mark.parametrize("parts", [("train", "test"), ("training_set", "val"), ("Train", "test images")])
def test_splits_inside_of_the_classes_are_refused(make_files, parts):
    root = make_files(*(f"{name}/{part}/{i}.png" for name in ("cat", "dog") for part in parts for i in "12"))
    with pytest.raises(
        DataError, match=r"'cat' holds .*: splits lie above the classes, as in photos/train/cat"
    ):
        load_dataset(root)


def test_folders_inside_of_classes_are_named_first_of_all(make_files):
    root = make_files(
        *(f"{name}/{i}.png" for name in ("Fruit/Apple/Golden", "Fruit/Pear", "Milk") for i in "12")
    )
    dataset = load_dataset(root)
    assert dataset.class_names == ("Fruit", "Milk")
    assert dataset.notes[0] == (
        "1 class folder with sub-folders, whose images all count for the class above: 'Fruit' ('Apple', 'Pear'); if "
        "the sub-folders are the classes, move them up into one folder"
    )
    many = make_files(*(f"{name}/{i}/1.png" for name in "abcdefg" for i in "12"), root="many")
    assert load_dataset(many).notes[0].startswith("7 class folders with sub-folders, ")
    assert "'e' ('1', '2') and 2 more; if" in load_dataset(many).notes[0]
    splits = make_files(
        *(f"{part}/a/{part}x/1.png" for part in ("train", "test")), "train/b/1.png", root="splits"
    )
    assert "'a' ('trainx')" in load_dataset(splits).notes[0]


def test_a_rare_class_of_nearly_the_same_name_is_named(make_files):
    root = make_files(*(f"square/{i}.png" for i in range(8)), "sqaure/1.png", "disc/1.png", "disc/2.png")
    assert "label 'sqaure' has 1 image and is close to 'square' (8 images)" in " ".join(
        load_dataset(root).notes
    )


def test_classes_called_train_test_and_val(make_files):
    dataset = load_dataset(
        make_files(*(f"{name}/{i}.png" for name in ("train", "bus", "test", "val") for i in "12"))
    )
    assert dataset.class_names == ("bus", "test", "train", "val")


def test_a_class_called_train_inside_a_split(make_files):
    root = make_files(*(f"{part}/{name}/1.png" for part in ("train", "test") for name in ("train", "bus")))
    dataset = load_dataset(root)
    assert dataset.class_names == ("bus", "train")
    assert names(dataset.test) == ["test/bus/1.png", "test/train/1.png"]


def test_a_class_called_train_with_folders_of_its_own(make_files):
    dataset = load_dataset(make_files("train/1.png", "train/old/2.png", "bus/1.png", "bus/2.png"))
    assert dataset.class_names == ("bus", "train")
    assert len(dataset.train + dataset.test) == 4


def test_images_deeper_down_belong_to_the_class(make_files):
    dataset = load_dataset(make_files("a/x/y/1.png", "a/2.png", "b/z/1.png", "b/2.png"))
    assert dataset.class_names == ("a", "b")
    assert sorted(names(dataset.train + dataset.test)) == ["a/2.png", "a/x/y/1.png", "b/2.png", "b/z/1.png"]


def test_hidden_files_and_what_systems_leave_behind_are_not_seen(make_files):
    root = make_files(
        *(f"{name}/{i}.png" for name in "ab" for i in "12"),
        ".git/1.png", "a/.hidden.png", "a/._1.png", "b/Thumbs.db", "__MACOSX/a/1.png", "@eaDir/1.png", ".DS_Store",
    )  # fmt: skip
    dataset = load_dataset(root)
    assert dataset.class_names == ("a", "b")
    assert len(dataset.train + dataset.test) == 4
    assert len(dataset.notes) == 1  # only that a test part was held out


def test_names_with_spaces_dots_and_other_scripts(make_files):
    classes = ["a b", "v1.0", "été", "字", "x.png"]
    root = make_files(*(f"{name}/ö {i}.x.png" for name in classes for i in "12"))
    dataset = load_dataset(root)
    assert set(dataset.class_names) == {unicodedata.normalize("NFC", name) for name in classes}
    for example in dataset.train + dataset.test:
        assert example.source.is_file()
        assert dataset.class_names[example.label] == unicodedata.normalize("NFC", example.image.split("/")[0])


def test_classes_written_with_other_unicode_in_train_and_test_are_the_same(make_files):
    composed, decomposed = "é", "e\u0301"
    dataset = load_dataset(make_files(f"train/{composed}/1.png", "train/b/1.png", f"test/{decomposed}/1.png"))
    assert dataset.class_names == ("b", composed)
    assert [e.label for e in dataset.test] == [1]


def test_numbers_are_sorted_by_value(make_files):
    dataset = load_dataset(
        make_files(*(f"{name}/{i}.png" for name in ("10", "9", "class 2", "class 10") for i in "12"))
    )
    assert dataset.class_names == ("9", "10", "class 2", "class 10")


def test_upper_case_endings_count(make_files):
    dataset = load_dataset(make_files("a/1.PNG", "a/2.JPG", "b/1.png", "b/2.png"))
    assert len(dataset.train + dataset.test) == 4


def test_thousands_of_files(make_files, tmp_path):
    for part in ("train", "test"):
        for name in range(20):
            folder = tmp_path / "many" / part / f"class {name}"
            folder.mkdir(parents=True)
            for i in range(100):
                (folder / f"{i}.jpg").touch()
    dataset = load_dataset(tmp_path / "many")
    assert (len(dataset.train), len(dataset.test), len(dataset.class_names)) == (2000, 2000, 20)


# ---- links and odd entries


def test_a_link_that_leads_back_up_is_not_followed(make_files):
    root = make_files(*(f"{name}/{i}.png" for name in "ab" for i in "12"))
    if not links_work(root):
        pytest.skip("no symbolic links here")
    os.symlink(root, root / "a" / "loop", target_is_directory=True)
    dataset = load_dataset(root)
    assert sorted(names(dataset.train + dataset.test)) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


def test_a_linked_class_folder_is_followed_and_a_dangling_link_is_counted(make_files):
    root = make_files("a/1.png", "a/2.png")
    outside = make_files("1.png", "2.png", root="outside")
    if not links_work(root):
        pytest.skip("no symbolic links here")
    os.symlink(outside, root / "b", target_is_directory=True)
    os.symlink(root / "gone.png", root / "a" / "3.png")
    dataset = load_dataset(root)
    assert dataset.class_names == ("a", "b")
    assert len(dataset.train + dataset.test) == 4
    assert dataset.notes[0] == "1 link to what is not there ignored: 'a/3.png'"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_is_no_unicode_is_read_and_shown_with_escapes(make_files):
    root = make_files("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    Image.new("RGB", (1, 1)).save(os.fsencode(root) + b"/a/\xff.png", format="PNG")
    dataset = load_dataset(root)
    (odd,) = (e for e in dataset.train + dataset.test if "udcff" in e.image)
    assert odd.image == "a/\\udcff.png"
    assert open_image(odd.source).size == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_class_folder_whose_name_is_no_unicode_is_refused(make_files):
    root = make_files("a/1.png", "b/1.png")
    bad = os.fsdecode(os.fsencode(root) + b"/\xfe")
    os.mkdir(bad)
    Image.new("RGB", (1, 1)).save(os.fsencode(bad) + b"/1.png", format="PNG")
    with pytest.raises(
        DataError, match=r"the class folder '\\udcfe' has a name that is not valid Unicode: rename it"
    ):
        load_dataset(root)
    with pytest.raises(DataError, match="this path is not valid Unicode: rename the folder or file"):
        load_dataset(bad)


def test_images_of_a_folder_are_those_that_training_reads(make_files):
    root = make_files(
        "a.png", "b/c.png", "b/2/d.JPG", "._x.png", "b/._c.png", "__MACOSX/b/c.png", ".ipynb_checkpoints/a.png",
        "b/Thumbs.db", "notes.txt", "$RECYCLE.BIN/a.png",
    )  # fmt: skip
    assert [path.relative_to(root).as_posix() for path in image_files(root)] == [
        "a.png",
        "b/2/d.JPG",
        "b/c.png",
    ]
    assert image_files(make_files(root="empty")) == []
    with pytest.raises(DataError, match="gone: this folder cannot be listed"):
        image_files(root / "gone")


def test_a_folder_that_cannot_be_listed_is_named(make_files, monkeypatch):
    def deny(_):
        raise PermissionError(13, "Permission denied")

    root = make_files("a/1.png")
    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=r"photos: this folder cannot be listed \(Permission denied\)"):
        load_dataset(root)


# ---- what is left out, with a note


def test_other_files_are_counted_by_ending(make_files):
    root = make_files(*(f"{name}/{i}.png" for name in "ab" for i in "12"), "a/x.heic", "b/y.HEIC", "LICENSE")
    assert load_dataset(root).notes[0] == "3 files with other endings ignored: .heic (2), no ending (1)"


def test_loose_images_are_named(make_files):
    root = make_files(*(f"{name}/{i}.png" for name in "ab" for i in "12"), *(f"{i}.png" for i in range(7)))
    note = load_dataset(root).notes[0]
    assert note.startswith(f"7 images beside the folders in {root} ignored: '0.png', ")
    assert note.endswith(" and 2 more")


def test_loose_images_in_a_split_are_named(make_files):
    root = make_files("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/x.png", "test/b/1.png")
    assert load_dataset(root).notes == (f"1 image beside the folders in {root / 'test'} ignored: 'x.png'",)


def test_folders_beside_the_splits_are_named(make_files):
    root = make_files("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "extra/a/1.png")
    (note,) = load_dataset(root).notes
    assert note == "folders beside 'train' that are no split with class folders ignored: 'extra'"


def test_an_unlabelled_test_folder_is_named_and_a_test_part_held_out(make_files):
    root = make_files(*(f"train/{name}/{i}.png" for name in "ab" for i in "12"), "test/1.png")
    dataset = load_dataset(root)
    assert dataset.held_out
    assert dataset.notes[0].endswith("that are no split with class folders ignored: 'test'")


def test_classes_without_test_images_are_named(make_files):
    dataset = load_dataset(make_files("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/a/1.png"))
    assert dataset.notes == ("2 classes without test images: 'b', 'c'",)


# ---- what is refused


def test_an_empty_folder(make_files):
    with pytest.raises(
        DataError, match="no images found in this folder: put the images of each class into a folder"
    ):
        load_dataset(make_files())


def test_a_folder_of_other_files_says_which(make_files):
    with pytest.raises(
        DataError, match=r"no images found in this folder \(2 files with other endings ignored: .txt"
    ):
        load_dataset(make_files("a/1.txt", "b/1.txt"))


def test_images_without_class_folders(make_files):
    with pytest.raises(DataError, match="2 images but no class folders: put the images of each class"):
        load_dataset(make_files("1.png", "2.png"))


def test_one_class(make_files):
    with pytest.raises(
        DataError, match=r"all 2 images belong to one class, 'a', .* add images of a second class"
    ):
        load_dataset(make_files("a/1.png", "a/2.png"))


def test_one_class_folder_that_holds_the_classes(make_files):
    with pytest.raises(
        DataError, match=r"one class folder only, 'all', which holds folders itself \('x', 'y'\)"
    ):
        load_dataset(make_files("all/x/1.png", "all/y/1.png"))


def test_an_empty_class_folder(make_files):
    root = make_files("a/1.png", "b/1.png", "c/readme.txt")
    with pytest.raises(DataError, match="no images in 'c': every folder here is a class and needs an image"):
        load_dataset(root)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_without_training_images(make_files, part):
    root = make_files("train/a/1.png", "train/b/1.png", f"{part}/a/1.png", f"{part}/B2/1.png")
    with pytest.raises(
        DataError, match=rf"{part}: no training images for 'B2': add the same class folder to train/"
    ):
        load_dataset(root)


def test_splits_without_train(make_files):
    with pytest.raises(DataError, match=r"'(val|test)', '(val|test)' without train/: add train/"):
        load_dataset(make_files("val/a/1.png", "val/b/1.png", "test/a/1.png"))


def test_two_folders_for_one_split(make_files):
    root = make_files("train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png", "test/a/1.png")
    with pytest.raises(DataError, match="'val', 'valid' mean the same split: keep one of them"):
        load_dataset(root)


def test_a_split_or_a_class_called_train(make_files):
    with pytest.raises(
        DataError, match="'train' holds class folders, but 'bus' lies beside it: if it is the training"
    ):
        load_dataset(make_files("train/a/1.png", "train/b/1.png", "bus/1.png"))
