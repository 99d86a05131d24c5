"""Original annotations of the data sets, read where CoOp's split file is missing.

What each layout means, and how CoOp makes a split of it: KaiyangZhou/CoOp ``datasets/*.py``. Its script draws on
Python's global generator; here every reader draws on ``random.Random(SPLIT_SEED)``, which is what a first run of that
script with seed 1 does. Lists of files come from the annotations in their order, or, where there are only
folders, from their names in sorted order (CoOp takes the order of ``os.listdir``, which differs between disks).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from blocklora.core.errors import DataError
from blocklora.core.words import count
from blocklora.data.images import IMAGE_ENDINGS
from blocklora.data.index_cache import listings
from blocklora.data.literature.split_files import Entry, read_json_file

__all__ = ["SPLIT_SEED", "aircraft", "cars", "class_folders", "flowers", "pets", "sun", "ucf"]

SPLIT_SEED = 1
Parts = dict[str, list[Entry]]


def pets(folder: Path) -> Parts:
    """OxfordPets: ``annotations/{trainval,test}.txt``, lines of "Breed_name_12 label species breed"."""

    def read(name: str) -> list[Entry]:
        entries = []
        for words, fail in _lines(folder / "annotations" / name, 4):
            breed = "_".join(words[0].split("_")[:-1]).lower()
            entries.append(Entry(f"{words[0]}.jpg", _number(words[1], fail) - 1, breed))
        return entries

    train, val = _four_to_one(read("trainval.txt"))
    return {"train": train, "val": val, "test": read("test.txt")}


def cars(folder: Path) -> Parts:
    """StanfordCars: ``devkit/*.mat``; the year goes to the front of a name, "BMW X3 SUV 2012" -> "2012 BMW X3 SUV"."""
    names = [str(name) for name in np.atleast_1d(_mat(folder / "devkit" / "cars_meta.mat", "class_names"))]

    def read(images: str, file: Path) -> list[Entry]:
        entries = []
        for number, row in enumerate(np.atleast_1d(_mat(file, "annotations"))):
            if not isinstance(row, dict) or not {"fname", "class"} <= row.keys():
                raise DataError(
                    f"{file}: annotations[{number}] has no 'fname' and 'class': download it again"
                )
            label = int(row["class"]) - 1
            if not 0 <= label < len(names):
                raise DataError(f"{file}: annotations[{number}] has class {label + 1} of {len(names)}")
            *model, year = names[label].split(" ")
            entries.append(Entry(f"{images}/{row['fname']}", label, " ".join([year, *model])))
        return entries

    test = folder / "cars_test_annos_withlabels.mat"
    train, val = _four_to_one(read("cars_train", folder / "devkit" / "cars_train_annos.mat"))
    return {"train": train, "val": val, "test": read("cars_test", test)}


def flowers(folder: Path) -> Parts:
    """Flowers102: ``imagelabels.mat`` (labels from 1, in file order) and ``cat_to_name.json``; split 5 : 2 : 3."""
    names = read_json_file(folder / "cat_to_name.json")
    groups: dict[int, list[str]] = {}
    for place, label in enumerate(np.atleast_1d(_mat(folder / "imagelabels.mat", "labels")).tolist()):
        groups.setdefault(int(label), []).append(f"image_{place + 1:05d}.jpg")
    for label in groups:
        if str(label) not in names:
            raise DataError(
                f"{folder / 'cat_to_name.json'}: there is no name for class {label}: download it again"
            )
    return _five_two_three([(label - 1, names[str(label)], files) for label, files in groups.items()], folder)


def sun(folder: Path) -> Parts:
    """SUN397: ``ClassName.txt`` gives labels; "/a/abbey/x.jpg"; "/g/gym/indoor" is called "indoor gym"."""
    classes = [words[0].removeprefix("/") for words, _ in _lines(folder / "ClassName.txt", 1)]
    labels = {name: label for label, name in enumerate(classes)}

    def read(name: str) -> list[Entry]:
        entries = []
        for words, fail in _lines(folder / name, 1):
            image = words[0].removeprefix("/")
            place, _, _ = image.rpartition("/")
            if place not in labels:
                raise fail(f"the class {place!r} is not in ClassName.txt")
            entries.append(Entry(image, labels[place], " ".join(place.split("/")[:0:-1])))
        return entries

    train, val = _four_to_one(read("Training_01.txt"))
    return {"train": train, "val": val, "test": read("Testing_01.txt")}


def ucf(folder: Path) -> Parts:
    """UCF101: ``ucfTrainTestlist/``; the middle frame of "ApplyLipstick/v.avi" is "Apply_Lipstick/v.jpg"."""
    lists = folder / "ucfTrainTestlist"
    labels = {}
    for words, fail in _lines(lists / "classInd.txt", 2):
        labels[words[1]] = _number(words[0], fail) - 1

    def read(name: str) -> list[Entry]:
        entries = []
        for words, fail in _lines(lists / name, 1):
            action, _, film = words[0].split(" ")[0].partition("/")  # training lists have a label behind it
            if action not in labels or not film:
                raise fail(f"the action {action!r} is not in classInd.txt")
            spaced = "_".join(re.findall("[A-Z][^A-Z]*", action))
            entries.append(Entry(f"{spaced}/{film.replace('.avi', '.jpg')}", labels[action], spaced))
        return entries

    train, val = _four_to_one(read("trainlist01.txt"))
    return {"train": train, "val": val, "test": read("testlist01.txt")}


def aircraft(folder: Path) -> Parts:
    """FGVCAircraft: ``variants.txt`` gives labels by line; lists of "0034309 Boeing 707-320". The official split."""
    variants = [line.strip() for line in _text(folder / "variants.txt").splitlines() if line.strip()]
    labels = {name: label for label, name in enumerate(variants)}

    def read(part: str) -> list[Entry]:
        entries = []
        for words, fail in _lines(folder / f"images_variant_{part}.txt", 2):
            name = " ".join(words[1:])
            if name not in labels:
                raise fail(f"the variant {name!r} is not in variants.txt")
            entries.append(Entry(f"{words[0]}.jpg", labels[name], name))
        return entries

    return {part: read(part) for part in ("train", "val", "test")}


def class_folders(images: Path, ignored: Sequence[str], renamed: Mapping[str, str]) -> Parts:
    """Caltech101, Food101, DTD, EuroSAT: a folder a class, sorted; split 5 : 2 : 3."""
    (entries,) = listings([images])
    folders = [name for name in entries if name not in ignored and (images / name).is_dir()]
    groups: list[tuple[int, str, list[str]]] = []
    for name, files in zip(folders, listings([images / name for name in folders]), strict=True):
        found = [f"{name}/{file}" for file in files if Path(file).suffix.lower() in IMAGE_ENDINGS]
        groups.append((len(groups), renamed.get(name, name), found))
    return _five_two_three(groups, images)


def _four_to_one(trainval: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Shuffle each class, labels in order of first appearance, and give a fifth of it to validation."""
    rng = random.Random(SPLIT_SEED)
    groups: dict[int, list[Entry]] = {}
    for entry in trainval:
        groups.setdefault(entry.label, []).append(entry)
    train, val = [], []
    for group in groups.values():
        n_val = round(len(group) * 0.2)
        rng.shuffle(group)
        val += group[:n_val]
        train += group[n_val:]
    return train, val


def _five_two_three(groups: Sequence[tuple[int, str, list[str]]], where: Path) -> Parts:
    """Shuffle each class (label, name, files) and cut it into half, a fifth, and the rest."""
    rng = random.Random(SPLIT_SEED)
    parts: Parts = {"train": [], "val": [], "test": []}
    for label, name, files in groups:
        n_train, n_val = round(len(files) * 0.5), round(len(files) * 0.2)
        if min(n_train, n_val, len(files) - n_train - n_val) < 1:
            raise DataError(
                f"{where}: class {name!r} has {count(len(files), 'image')}, too few to split 5 : 2 : 3"
            )
        rng.shuffle(files)
        cuts = {
            "train": files[:n_train],
            "val": files[n_train : n_train + n_val],
            "test": files[n_train + n_val :],
        }
        for part, chosen in cuts.items():
            parts[part] += [Entry(file, label, name) for file in chosen]
    return parts


class _Fail:
    """Makes the error that names a line of a file."""

    def __init__(self, path: Path, number: int, line: str) -> None:
        self._where = f"{path}: line {number} {line[:120]!r}"

    def __call__(self, reason: str) -> DataError:
        return DataError(f"{self._where}: {reason}: download the file again")


def _lines(path: Path, n_words: int) -> list[tuple[list[str], _Fail]]:
    """Split the lines of a text file at blanks, with a way to complain about each; empty lines are left out."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.strip().split(" ") if n_words > 1 else [line.strip()]
        fail = _Fail(path, number, line)
        if line.strip() and len(words) < n_words:
            raise fail(f"expected {n_words} words")
        if line.strip():
            rows.append((words, fail))
    return rows


def _number(word: str, fail: _Fail) -> int:
    if not word.isdecimal():
        raise fail(f"{word!r} is no number")
    return int(word)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}): make it readable, or download it again") from None


def _mat(path: Path, name: str) -> Any:
    """Read one variable of a MATLAB file, with structures as dictionaries."""
    try:
        return loadmat(path, simplify_cells=True)[name]
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(f"{path}: no variable {name!r} can be read ({error}): download it again") from None
