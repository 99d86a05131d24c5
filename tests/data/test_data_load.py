from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

import blocklora.data
from blocklora.core.errors import DataError
from blocklora.data import Dataset, bundled_names, few_shot, load_dataset, open_image
from blocklora.data import bundled as bundled_module


def test_public_surface_is_complete():
    assert all(hasattr(blocklora.data, name) for name in blocklora.data.__all__)


# ---- digits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_parts_of_digits_are_disjoint_and_complete(digits):
    everything = digits.train + digits.val + digits.test
    assert [e.image for e in everything] == [f"digits/{i:04}" for i in range(1797)]
    assert (len(digits.train), len(digits.val), len(digits.test)) == (776, 130, 891)
    for part in (digits.train, digits.val, digits.test):
        assert set(Counter(e.label for e in part)) == set(range(10))
    assert digits.class_names == tuple("0123456789")


def test_digits_are_cut_where_the_sequence_of_a_sheet_starts():
    labels = load_digits().target.tolist()
    sheet = list(range(10)) * 2
    assert labels[:20] == sheet
    assert labels[bundled_module.TRAIN_END :][:20] == sheet
    assert labels[bundled_module.VAL_END :][:19] == sheet[1:]  # this sheet's first 0 is not in the data


def test_digits_are_the_scans(digits):
    scans = load_digits()
    for place in (0, 800, 1796):
        example = (digits.train + digits.val + digits.test)[place]
        assert example.label == scans.target[place]
        grey = np.asarray(open_image(example.source))[..., 0]
        assert np.abs(grey / 255 - scans.images[place] / 16).max() < 0.002


def test_digits_are_not_mirrored_and_say_how_they_are_split(digits):
    assert not digits.flip
    assert digits.prompt == 'a photo of the number: "{}".'
    assert digits.notes == (
        "split in file order, between sheets: scans 0-775 train, 776-905 validation, 906-1796 test",
    )
    assert not digits.held_out


def test_sixteen_shots_of_digits(digits):
    split = few_shot(digits, 16, seed=1)
    assert (len(split.train), len(split.val), len(split.test)) == (160, 40, 891)
    assert split.notes == ()


# ---- other bundled tasks


def test_every_bundled_task_loads_and_can_be_opened():
    assert "digits" in bundled_names()
    assert bundled_names() == sorted(bundled_names())
    for name in bundled_names():
        dataset = load_dataset(name)
        assert dataset.name == name
        assert dataset.test
        assert min(open_image(dataset.train[0].source).size) > 0
        assert dataset.prompt.count("{}") == 1


def test_a_task_is_a_folder_with_a_manifest(make_files, tmp_path, monkeypatch):
    root = make_files("a1.png", "a2.png", "b1.png", "b2.png", root="assets")
    task = tmp_path / "assets" / "signs"
    task.mkdir()
    for file in root.glob("*.png"):
        file.rename(task / file.name)
    rows = "image,label,split\na1.png,a,train\nb1.png,b,train\na2.png,a,test\nb2.png,b,test\n"
    (task / "manifest.csv").write_text(rows, encoding="utf-8")
    monkeypatch.setattr(bundled_module, "ASSETS", tmp_path / "assets")
    assert bundled_names() == ["digits", "signs"]
    plain = load_dataset("signs")
    assert (plain.name, plain.prompt, plain.flip) == ("signs", "a photo of a {}.", True)
    settings = {"prompt": "a {} sign.", "flip": False, "source": "made up"}
    (task / "task.json").write_text(json.dumps(settings), encoding="utf-8")
    chosen = load_dataset("signs")
    assert (chosen.name, chosen.prompt, chosen.flip) == ("signs", "a {} sign.", False)
    assert chosen.train == plain.train


def test_an_unknown_task_is_refused():
    with pytest.raises(DataError, match=r"no bundled task is called 'letters': choose one of .*digits"):
        bundled_module.read_bundled("letters")


# ---- paths and names


@pytest.mark.parametrize("text", ["digit", "Digits", "digts"])
def test_a_near_miss_is_guessed(text):
    with pytest.raises(
        DataError, match=rf"^{text}: this path does not exist: .*digits.*; did you mean 'digits'\?$"
    ):
        load_dataset(text)


def test_a_path_that_does_not_exist_is_not_guessed(tmp_path):
    with pytest.raises(
        DataError, match=r"gone/photos: this path does not exist: give a folder of class folders"
    ) as e:
        load_dataset(tmp_path / "gone" / "photos")
    assert "did you mean" not in str(e.value)


@pytest.mark.parametrize("text", ["", "  "])
def test_no_name_is_refused(text):
    with pytest.raises(DataError, match="the data set's name is empty"):
        load_dataset(text)


@pytest.mark.parametrize(("name", "kind"), [("x.zip", "a .zip file"), ("x", "a file without ending file")])
def test_another_file_is_refused(tmp_path, name, kind):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"{kind} is no data set: give a folder of class folders, a CSV"):
        load_dataset(tmp_path / name)


def test_a_folder_called_digits_wins_and_says_so(make_files, monkeypatch, tmp_path):
    make_files(*(f"{name}/{i}.png" for name in "ab" for i in "12"), root="digits")
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("digits")
    assert dataset.class_names == ("a", "b")
    assert dataset.notes[0] == (
        f"'digits' is read from {(tmp_path / 'digits').resolve()}; the bundled task of that name is not used"
    )


def test_home_is_expanded_and_the_home_of_nobody_is_no_crash(make_files, monkeypatch, tmp_path):
    make_files(*(f"{name}/{i}.png" for name in "ab" for i in "12"))
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert load_dataset("~/photos").class_names == ("a", "b")
    with pytest.raises(DataError, match="~nobody-of-that-name/photos: this path does not exist"):
        load_dataset("~nobody-of-that-name/photos")


def test_a_dot_is_named_after_its_folder(make_files, monkeypatch):
    monkeypatch.chdir(make_files(*(f"{name}/{i}.png" for name in "ab" for i in "12")))
    assert load_dataset(".").name == "photos"
