"""Miniature copies of the fifteen data sets, in their exact layouts on disk, with what is odd in the real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

TRAIN, VAL, TEST = 18, 5, 3
COOP = {
    "caltech101": "caltech-101", "oxford_pets": "oxford_pets", "stanford_cars": "stanford_cars",
    "oxford_flowers": "oxford_flowers", "food101": "food-101", "fgvc_aircraft": "fgvc_aircraft", "sun397": "sun397",
    "dtd": "dtd", "eurosat": "eurosat", "ucf101": "ucf101", "imagenet": "imagenet",
}  # fmt: skip
CLIP_LORA = COOP | {
    "caltech101": "Caltech101", "oxford_pets": "OxfordPets", "stanford_cars": "StanfordCars",
    "oxford_flowers": "Flower102", "food101": "Food101", "sun397": "SUN397", "dtd": "DTD", "ucf101": "UCF101",
}  # fmt: skip
SPLIT = {
    "caltech101": ("101_ObjectCategories", "split_zhou_Caltech101.json"),
    "oxford_pets": ("images", "split_zhou_OxfordPets.json"),
    "stanford_cars": ("", "split_zhou_StanfordCars.json"),
    "oxford_flowers": ("jpg", "split_zhou_OxfordFlowers.json"),
    "food101": ("images", "split_zhou_Food101.json"),
    "sun397": ("SUN397", "split_zhou_SUN397.json"),
    "dtd": ("images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("2750", "split_zhou_EuroSAT.json"),
    "ucf101": ("UCF-101-midframes", "split_zhou_UCF101.json"),
}
# class name and folder (or prefix) of each label; labels first appear in another order where ORDER says so
CLASSES = {
    "caltech101": [("face", "Faces"), ("leopard", "Leopards"), ("motorbike", "Motorbikes"), ("accordion", "accordion"),
                   ("airplane", "airplanes")],
    "oxford_pets": [("abyssinian", "Abyssinian"), ("american_bulldog", "american_bulldog"),
                    ("american_pit_bull_terrier", "american_pit_bull_terrier")],
    "stanford_cars": [("2000 AM General Hummer SUV", ""), ("2012 Ram C/V Cargo Van Minivan", ""),
                      ("2012 smart fortwo Convertible", ""), ("2011 Bentley Mulsanne 6.75 Sedan", ""),
                      ("1994 Audi 100 Sedan", "")],
    "oxford_flowers": [("pink primrose", ""), ("hard-leaved pocket orchid", ""), ("bird of paradise", ""),
                       ("désert-rose", ""), ("king protea", "")],
    "food101": [("apple_pie", "apple_pie"), ("crème_brûlée", "crème_brûlée"), ("hot dog", "hot dog"), ("pho", "pho")],
    "sun397": [("abbey", "a/abbey"), ("exterior balcony", "b/balcony/exterior"),
               ("interior balcony", "b/balcony/interior"), ("indoor gymnasium", "g/gymnasium/indoor")],
    "dtd": [("banded", "banded"), ("polka-dotted", "polka-dotted"), ("zigzagged", "zigzagged")],
    "eurosat": [("Annual Crop Land", "AnnualCrop"), ("Forest", "Forest"),
                ("Herbaceous Vegetation Land", "HerbaceousVegetation"), ("Highway or Road", "Highway"),
                ("Industrial Buildings", "Industrial"), ("Pasture Land", "Pasture"),
                ("Permanent Crop Land", "PermanentCrop"), ("Residential Buildings", "Residential"), ("River", "River"),
                ("Sea or Lake", "SeaLake")],
    "ucf101": [("Apply_Eye_Makeup", "Apply_Eye_Makeup"), ("Handstand_Pushups", "Handstand_Pushups"),
               ("Yo_Yo", "Yo_Yo")],
}  # fmt: skip
ORDER = {"stanford_cars": [3, 0, 4, 2, 1], "oxford_flowers": [2, 4, 0, 3, 1]}
SHORT = {("caltech101", 1): 3}  # fewer training images than 16 shots, as some real classes have
VARIANTS = ["F/A-18", "DC-9-30", "Boeing 707-320", "Fokker 100"]
WORDNET = {
    "n01440764": "tench", "n01498041": "stingray", "n02133161": "American black bear", "n03773504": "missile",
    "n04008634": "missile",
}  # fmt: skip
ADVERSARIAL = ["n01498041", "n02133161", "n04008634"]


def write_image(path: Path, colour: int = 0) -> None:
    """Write a small image: another one for every path within the data sets, and the same every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(list("/".join(path.parts[-3:]).encode()))
    base = np.array([(37 * colour) % 256, (91 * colour) % 256, (151 * colour) % 256])
    pixels = np.clip(base + grain.integers(0, 60, (24, 20, 1)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def image_names(name: str, label: int, n: int) -> list[str]:
    """Name the images of a class as the data set does, relative to its image folder."""
    folder = CLASSES[name][label][1]
    if name == "oxford_pets":
        return [f"{folder}_{i + 1}.jpg" for i in range(n)]
    if name == "stanford_cars":
        return [f"cars_train/{label * 100 + i + 1:05d}.jpg" for i in range(n)]
    if name == "oxford_flowers":
        return [f"image_{label * 100 + i + 1:05d}.jpg" for i in range(n)]
    if name == "sun397":
        return [f"{folder}/sun_a{label}{i:03d}.jpg" for i in range(n)]
    if name == "ucf101":
        return [f"{folder}/v_{folder.replace('_', '')}_g{i:02d}_c01.jpg" for i in range(n)]
    return [f"{folder}/{i}.v{label}.jpg" for i in range(n)]


def split_entries(name: str) -> dict[str, list[list[object]]]:
    """Make the content of a split file: each class shuffled, classes in the order in which they first appear."""
    shuffle = random.Random(f"file of {name}")
    parts: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for label in ORDER.get(name, range(len(CLASSES[name]))):
        n_train = SHORT.get((name, label), TRAIN)
        images = image_names(name, label, n_train + VAL + TEST)
        if name == "stanford_cars":
            images[-TEST:] = [image.replace("cars_train", "cars_test") for image in images[-TEST:]]
        shuffle.shuffle(images)
        if name == "stanford_cars":
            images.sort(key=lambda image: image.startswith("cars_test"))
        cuts = {"train": images[:n_train], "val": images[n_train:-TEST], "test": images[-TEST:]}
        for part, chosen in cuts.items():
            parts[part] += [[image, label, CLASSES[name][label][0]] for image in chosen]
    return parts


def write_split_set(root: Path, name: str, folders: dict[str, str] = COOP) -> Path:
    """Write one of the nine data sets that have a split file."""
    folder = root / folders[name]
    images, split = SPLIT[name]
    entries = split_entries(name)
    for part in entries.values():
        for image, label, _ in part:
            write_image(folder / images / str(image), int(str(label)))
    (folder / split).write_text(json.dumps(entries), encoding="utf-8")
    if name == "caltech101":
        for ignored in ("BACKGROUND_Google", "Faces_easy"):
            write_image(folder / images / ignored / "image_0001.jpg")
    return folder


def write_aircraft(root: Path) -> Path:
    """Write FGVCAircraft: variants in another order than the images."""
    folder = root / "fgvc_aircraft"
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("\n".join(VARIANTS) + "\n", encoding="utf-8")
    number = 34309
    for part, n in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        lines = []
        for label in (1, 0, 3, 2):
            for _ in range(n):
                number += 17
                write_image(folder / "images" / f"{number:07d}.jpg", label)
                lines.append(f"{number:07d} {VARIANTS[label]}")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_imagenet(root: Path, *, images: str = "images", classnames: bool = True) -> Path:
    """Write ImageNet: two classes of one name, upper-case endings, files that are no images."""
    folder = root / "imagenet"
    for label, name in enumerate(WORDNET):
        for part, n in (("train", TRAIN + VAL), ("val", TEST)):
            for i in range(n):
                write_image(folder / images / part / name / f"{name}_{97 * i % 1000}.JPEG", label)
    (folder / images / "train" / "n01440764" / "notes.txt").write_text("no image", encoding="utf-8")
    if classnames:
        lines = [f"{wordnet} {name}" for wordnet, name in WORDNET.items()]
        (folder / "classnames.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_shifts(root: Path) -> None:
    """Write ImageNetV2, -Sketch, -A and -R; their class names are those of ``imagenet/classnames.txt``."""
    for label, name in enumerate(WORDNET):
        for i in range(TEST):
            v2 = root / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / str(label)
            write_image(v2 / f"{i}a.jpeg", label)
            write_image(root / "imagenet-sketch" / "images" / name / f"sketch_{i}.JPEG", label)
            if name in ADVERSARIAL:
                write_image(root / "imagenet-adversarial" / "imagenet-a" / name / f"0.{i}_fox.jpg", label)
                write_image(root / "imagenet-rendition" / "imagenet-r" / name / f"art_{i}.jpg", label)
    (root / "imagenet-adversarial" / "imagenet-a" / "README.txt").write_text("read me", encoding="utf-8")


def write_all(root: Path, folders: dict[str, str] = COOP) -> Path:
    """Write all fifteen."""
    for name in SPLIT:
        write_split_set(root, name, folders)
    write_aircraft(root)
    write_imagenet(root, images="images" if folders is COOP else "")
    write_shifts(root)
    return root


def write_originals(folder: Path, name: str) -> None:
    """Write the original annotations of a data set, whose images are all of those that ``split_entries`` names."""
    write = {
        "oxford_pets": _pets,
        "sun397": _sun,
        "ucf101": _ucf,
        "oxford_flowers": _flowers,
        "stanford_cars": _cars,
    }
    if name in write:
        write[name](folder)


def _listed(name: str, order: Iterable[int], part: str) -> list[tuple[str, int]]:
    """Return images and labels of a list of files, "trainval" or "test"."""
    n = TRAIN + VAL
    kept = slice(0, n) if part == "trainval" else slice(n, n + TEST)
    return [(image, label) for label in order for image in image_names(name, label, n + TEST)[kept]]


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _pets(folder: Path) -> None:
    for part in ("trainval", "test"):
        rows = _listed("oxford_pets", range(3), part)
        lines = [f"{image.removesuffix('.jpg')} {label + 1} 1 {label + 1}" for image, label in rows]
        _write_lines(folder / "annotations" / f"{part}.txt", lines)


def _sun(folder: Path) -> None:
    _write_lines(folder / "ClassName.txt", [f"/{place}" for _, place in CLASSES["sun397"]])
    for part, file in (("trainval", "Training_01.txt"), ("test", "Testing_01.txt")):
        _write_lines(folder / file, [f"/{image}" for image, _ in _listed("sun397", (2, 0, 3, 1), part)])


def _ucf(folder: Path) -> None:
    lists, actions = folder / "ucfTrainTestlist", [name.replace("_", "") for name, _ in CLASSES["ucf101"]]
    _write_lines(lists / "classInd.txt", [f"{label + 1} {action}" for label, action in enumerate(actions)])
    for part, file in (("trainval", "trainlist01.txt"), ("test", "testlist01.txt")):
        rows = [
            (f"{actions[label]}/{Path(image).stem}.avi", label + 1)
            for image, label in _listed("ucf101", range(3), part)
        ]
        _write_lines(
            lists / file, [f"{film} {label}" if part == "trainval" else film for film, label in rows]
        )


def _flowers(folder: Path) -> None:
    labels = [(3, 1, 0, 4, 2)[place % 5] for place in range(60)]
    for place, label in enumerate(labels):
        write_image(folder / "jpg" / f"image_{place + 1:05d}.jpg", label)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8) + 1})
    names = {str(label + 1): words for label, (words, _) in enumerate(CLASSES["oxford_flowers"])}
    (folder / "cat_to_name.json").write_text(json.dumps(names), encoding="utf-8")


def _cars(folder: Path) -> None:
    names = [" ".join([*words.split(" ")[1:], words.split(" ")[0]]) for words, _ in CLASSES["stanford_cars"]]
    (folder / "devkit").mkdir()
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    for part, file in (
        ("trainval", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = [
            (1, label + 1, image.rpartition("/")[2])
            for image, label in _listed("stanford_cars", (1, 4, 0, 2, 3), part)
        ]
        savemat(folder / file, {"annotations": np.array([rows], dtype=kind)})
        for _, label, image in rows:  # here the last images are the test's, in split_entries any
            write_image(folder / ("cars_train" if part == "trainval" else "cars_test") / image, label - 1)
