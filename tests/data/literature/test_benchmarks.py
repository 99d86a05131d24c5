"""The fifteen data sets by name, on miniature copies in their exact layouts."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import mini_trees as mini
import numpy as np
import published_sampling as published
import pytest
from scipy.io import savemat

from blocklora.core.errors import DataError
from blocklora.data import (
    BENCHMARKS,
    SHIFTS,
    DataChoice,
    choose,
    few_shot,
    half_of_classes,
    known_benchmark,
    load_dataset,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden_few_shot.json").read_text(encoding="utf-8"))
CLASS_NAMES = {name: tuple(words for words, _ in classes) for name, classes in mini.CLASSES.items()} | {
    "fgvc_aircraft": tuple(mini.VARIANTS),
    "imagenet": tuple(mini.WORDNET.values()),
    "imagenetv2": tuple(mini.WORDNET.values()),
    "imagenet_sketch": tuple(mini.WORDNET.values()),
    "imagenet_a": ("stingray", "American black bear", "missile"),
    "imagenet_r": ("stingray", "American black bear", "missile"),
}
PROMPTS = {
    "oxford_pets": "a photo of a {}, a type of pet.", "oxford_flowers": "a photo of a {}, a type of flower.",
    "food101": "a photo of {}, a type of food.", "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.", "eurosat": "a centered satellite photo of {}.", "ucf101": "a photo of a person doing {}.",
}  # fmt: skip


def load(root, name):
    return load_dataset(name, root=root)


def named(examples):
    return [(example.image, example.label) for example in examples]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_set_is_read_in_both_folder_conventions(name, mini_root, mini_clip_lora_root):
    for root in (mini_root, mini_clip_lora_root):
        dataset = load(root, name)
        assert dataset.class_names == CLASS_NAMES[name]
        assert dataset.prompt == PROMPTS.get(name, "a photo of a {}.")
        for part in (dataset.train, dataset.val, dataset.test):
            assert all(example.source.is_file() for example in part)
        n = len(dataset.class_names)
        assert len(dataset.test) == n * mini.TEST
        assert bool(dataset.train) == (name not in SHIFTS)


@pytest.mark.parametrize("name", mini.SPLIT)
def test_the_order_of_a_split_file_is_kept(name, mini_root):
    dataset, entries = load(mini_root, name), mini.split_entries(name)
    for part in ("train", "val", "test"):
        assert named(getattr(dataset, part)) == [(image, label) for image, label, _ in entries[part]]
        images = mini_root / mini.COOP[name] / mini.SPLIT[name][0]
        assert [e.source for e in getattr(dataset, part)] == [images / image for image, _, _ in entries[part]]


def test_odd_orders_are_odd(mini_root):
    for name in ("stanford_cars", "oxford_flowers", "fgvc_aircraft"):
        first_seen = list(dict.fromkeys(example.label for example in load(mini_root, name).train))
        assert first_seen != sorted(first_seen)


@pytest.mark.parametrize("name", published.NAMES)
@pytest.mark.parametrize("protocol", published.PROTOCOLS)
def test_samples_are_the_published_ones(name, protocol, mini_root):
    dataset = load(mini_root, name)
    for shots in published.SHOTS:
        for seed in published.SEEDS:
            split = few_shot(dataset, shots, seed, protocol)
            train, val = published.PROTOCOLS[protocol](name, shots, seed)
            assert named(split.train) == train
            assert named(split.val) == val
            assert published.fingerprint(train, val) == GOLDEN[f"{name} {protocol} {shots} {seed}"]
            assert not {e.image for e in (*split.train, *split.val)} & {e.image for e in split.test}


def test_published_index_file_of_dtd():
    # linzhiqiu/cross_modal_adaptation indices/dtd/shot_1-seed_1.json: 47 classes of 60 training images each
    published_indices = [
        8, 96, 174, 231, 288, 304, 376, 427, 511, 588, 628, 690, 761, 804, 890, 913, 966, 1051, 1081, 1197, 1253,
        1284, 1347, 1418, 1488, 1549, 1560, 1664, 1708, 1757, 1846, 1911, 1934, 2017, 2046, 2157, 2180, 2221, 2281,
        2341, 2441, 2494, 2520, 2636, 2664, 2743, 2773,
    ]  # fmt: skip
    from blocklora.data import Dataset, Example

    train = tuple(Example(str(place), place // 60, b"") for place in range(47 * 60))
    dataset = Dataset("dtd", tuple(map(str, range(47))), train, train[:1], train[:1])
    assert [int(e.image) for e in few_shot(dataset, 1, seed=1).train] == published_indices


def test_clip_lora_warns_of_repeats(mini_root):
    split = few_shot(load(mini_root, "caltech101"), 16, 1, "clip-lora")
    leopards = [example.image for example in split.train if example.label == 1]
    assert len(leopards) == 16
    assert len(set(leopards)) <= 3
    assert (
        "fewer than 16 training images in 1 of 5 classes, filled up with repeats: leopard (3)" in split.notes
    )


def test_imagenet_never_validates_on_its_test_part(mini_root):
    dataset = load(mini_root, "imagenet")
    assert dataset.val == ()
    assert all(example.image.startswith("val/") for example in dataset.test)
    for protocol in published.PROTOCOLS:
        split = few_shot(dataset, 4, 1, protocol)
        assert len(split.val) == 4 * len(dataset.class_names)
        assert {example.image.split("/")[0] for example in split.val} == {"train"}
        assert not set(split.val) & set(split.train)
    assert any("no setting and no step is chosen by it" in note for note in dataset.notes)
    assert any("os.listdir" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("name", "n_base"), [("stanford_cars", 3), ("sun397", 2), ("caltech101", 3), ("eurosat", 5)]
)
def test_base_and_new_halves(name, n_base, mini_root):
    whole = load(mini_root, name)
    sample = few_shot(whole, 4, 1)
    base, base_split = half_of_classes(whole, sample, "base")
    new, new_split = half_of_classes(whole, sample, "new")
    assert base.class_names + new.class_names == whole.class_names
    assert len(base.class_names) == n_base
    for half, split, shift in ((base, base_split, 0), (new, new_split, n_base)):
        n = len(half.class_names)
        assert {example.label for example in split.train} == set(range(n))
        for part in ("train", "val", "test"):  # sampled before the cut: what the whole would have, relabelled
            kept = [(e.image, e.label - shift) for e in getattr(sample, part) if shift <= e.label < shift + n]
            assert named(getattr(split, part)) == kept


def test_halves_need_four_classes(mini_root):
    dataset = load(mini_root, "dtd")
    with pytest.raises(DataError, match="dtd: 3 classes cannot be halved"):
        half_of_classes(dataset, few_shot(dataset, 1, 1), "base")


# ---- the split file is missing


def four_to_one(entries):
    """Return train and val of CoOp's ``split_trainval``, stated again."""
    random.seed(1)
    train, val = [], []
    for label in dict.fromkeys(label for _, label in entries):
        places = [place for place, entry in enumerate(entries) if entry[1] == label]
        n_val = round(len(places) * 0.2)
        random.shuffle(places)
        val += [entries[place] for place in places[:n_val]]
        train += [entries[place] for place in places[n_val:]]
    return train, val


def five_two_three(groups):
    """Return train, val and test of CoOp's ``read_and_split_data``, stated again."""
    random.seed(1)
    train, val, test = [], [], []
    for label, images in groups:
        images = list(images)
        random.shuffle(images)
        a, b = round(len(images) * 0.5), round(len(images) * 0.2)
        train += [(image, label) for image in images[:a]]
        val += [(image, label) for image in images[a : a + b]]
        test += [(image, label) for image in images[a + b :]]
    return train, val, test


@pytest.fixture
def without_split(tmp_path):
    """The function that writes a set without its split file, with its original annotations."""
    state = random.getstate()

    def write(name):
        folder = mini.write_split_set(tmp_path, name)
        (folder / mini.SPLIT[name][1]).unlink()
        mini.write_originals(folder, name)
        return tmp_path

    yield write
    random.setstate(state)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("oxford_pets", (0, 1, 2)),
        ("sun397", (2, 0, 3, 1)),
        ("ucf101", (0, 1, 2)),
        ("stanford_cars", (1, 4, 0, 2, 3)),
    ],
)
def test_a_split_is_made_from_lists(name, order, without_split):
    dataset = load(without_split(name), name)
    n = mini.TRAIN + mini.VAL
    if name == "stanford_cars":
        whole = {label: mini.image_names(name, label, n + mini.TEST) for label in order}
        trainval = [(image, label) for label in order for image in whole[label][:n]]
        test = [(image.replace("train", "test"), label) for label in order for image in whole[label][n:]]
    else:
        whole = {label: mini.image_names(name, label, n + mini.TEST) for label in order}
        trainval = [(image, label) for label in order for image in whole[label][:n]]
        test = [(image, label) for label in order for image in whole[label][n:]]
    train, val = four_to_one(trainval)
    assert (named(dataset.train), named(dataset.val), named(dataset.test)) == (train, val, test)
    assert dataset.class_names == CLASS_NAMES[name]
    assert (
        f"{mini.SPLIT[name][1]} is not there: the split is made from the original annotations"
        in dataset.notes[0]
    )


@pytest.mark.parametrize("name", ["caltech101", "food101", "dtd", "eurosat"])
def test_a_split_is_made_from_class_folders(name, without_split):
    root = without_split(name)
    dataset = load(root, name)
    images = root / mini.COOP[name] / mini.SPLIT[name][0]
    folders = sorted(
        path.name for path in images.iterdir() if path.name not in ("BACKGROUND_Google", "Faces_easy")
    )
    groups = [
        (label, sorted(f"{folder}/{path.name}" for path in (images / folder).iterdir()))
        for label, folder in enumerate(folders)
    ]
    train, val, test = five_two_three(groups)
    assert (named(dataset.train), named(dataset.val), named(dataset.test)) == (train, val, test)
    assert set(dataset.class_names) == set(CLASS_NAMES[name])


def test_a_split_is_made_from_the_labels_of_flowers(without_split):
    dataset = load(without_split("oxford_flowers"), "oxford_flowers")
    groups = [
        (label, [f"image_{place + 1:05d}.jpg" for place in range(60) if (3, 1, 0, 4, 2)[place % 5] == label])
        for label in (3, 1, 0, 4, 2)
    ]
    train, val, test = five_two_three(groups)
    assert (named(dataset.train), named(dataset.val), named(dataset.test)) == (train, val, test)
    assert dataset.class_names == CLASS_NAMES["oxford_flowers"]


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        (
            "oxford_pets",
            "annotations/trainval.txt",
            "Abyssinian_1 one 1 1\n",
            r"trainval\.txt: line 1 .*'one' is no number",
        ),
        ("oxford_pets", "annotations/test.txt", "Abyssinian_1\n", r"test\.txt: line 1 .*expected 4 words"),
        (
            "sun397",
            "Training_01.txt",
            "/z/zoo/1.jpg\n",
            r"line 1 .*class 'z/zoo' is not in ClassName",
        ),
        ("ucf101", "ucfTrainTestlist/testlist01.txt", "Juggle/v.avi\n", "action 'Juggle' is not in classInd"),
        ("oxford_flowers", "cat_to_name.json", "{}", "there is no name for class"),
        ("oxford_flowers", "imagelabels.mat", "no matrix", "no variable 'labels' can be read"),
        ("stanford_cars", "devkit/cars_meta.mat", "no matrix", "no variable 'class_names' can be read"),
    ],
)
def test_broken_annotations_are_named(name, file, text, message, without_split):
    root = without_split(name)
    (root / mini.COOP[name] / file).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(root, name)


def test_neither_split_nor_annotations(tmp_path):
    folder = mini.write_split_set(tmp_path, "oxford_pets")
    (folder / "split_zhou_OxfordPets.json").unlink()
    with pytest.raises(
        DataError, match=r"neither split_zhou_OxfordPets\.json nor 'annotations/trainval.*ox\.ac\.uk"
    ):
        load(tmp_path, "oxford_pets")
    with pytest.raises(DataError, match="holds no folder 'dtd' or 'DTD' for DTD"):
        load(tmp_path, "dtd")
    shutil.rmtree(folder / "images")
    with pytest.raises(DataError, match="images: the images of OxfordPets are not there"):
        load(tmp_path, "oxford_pets")


def test_aircraft_with_an_unknown_variant(tmp_path):
    folder = mini.write_aircraft(tmp_path)
    (folder / "images_variant_val.txt").write_text("0034326 Concorde\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"val\.txt: line 1 .*variant 'Concorde' is not in variants\.txt"):
        load(tmp_path, "fgvc_aircraft")


# ---- ImageNet and its variants


def test_imagenet_without_its_list_of_names_takes_the_bundled_one(tmp_path):
    mini.write_imagenet(tmp_path, images="", classnames=False)
    names = load(tmp_path, "imagenet").class_names
    assert names == ("tench", "stingray", "American black bear", "missile", "missile")


def test_imagenetv2_with_the_bundled_names_has_a_thousand_classes(tmp_path):
    v2 = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    mini.write_image(v2 / "7" / "a.jpeg")
    dataset = load(tmp_path, "imagenetv2")
    assert (len(dataset.class_names), dataset.class_names[7], dataset.test[0].label) == (1000, "rooster", 7)
    assert "999 classes without a folder" in dataset.notes[0]
    (v2 / "1000").mkdir()
    with pytest.raises(DataError, match="'1000' is no class number below 1000"):
        load(tmp_path, "imagenetv2")


def test_imagenet_folders_that_are_wrong(tmp_path):
    folder = mini.write_imagenet(tmp_path)
    (folder / "images" / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"val: 1 image without a class folder, e\.g\. 'ILSVRC2012_val_00000001\.JPEG'"
    ):
        load(tmp_path, "imagenet")
    (folder / "images" / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    (folder / "images" / "train" / "n99999999").mkdir()
    with pytest.raises(DataError, match="no class name for the folder 'n99999999'"):
        load(tmp_path, "imagenet")
    (folder / "images" / "train" / "n99999999").rmdir()
    shutil.rmtree(folder / "images" / "train" / "n01498041")
    with pytest.raises(DataError, match="no training images for 'n01498041'"):
        load(tmp_path, "imagenet")
    shutil.rmtree(folder / "images" / "train")
    with pytest.raises(DataError, match="train: there is no such folder"):
        load(tmp_path, "imagenet")
    (folder / "classnames.txt").write_text("n01440764\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"classnames\.txt: line 1 'n01440764': expected a WordNet id of"):
        load(tmp_path, "imagenet")


# ---- by name


@pytest.mark.parametrize(
    ("said", "name"),
    [("OxfordPets", "oxford_pets"), ("pets", "oxford_pets"), ("ImageNet-V2", "imagenetv2"),
     ("imagenet-a", "imagenet_a"), ("Flowers102", "oxford_flowers"), ("FGVC", "fgvc_aircraft"),
     ("DescribableTextures", "dtd")],
)  # fmt: skip
def test_names_as_people_write_them(said, name):
    assert known_benchmark(said).name == name


def test_names_that_are_wrong(tmp_path):
    with pytest.raises(DataError, match=r"no data set is called 'food102'.*did you mean 'food101'"):
        load_dataset("food102", root=tmp_path)
    with pytest.raises(DataError, match="EuroSAT: EuroSAT is known by name: add --root FOLDER"):
        load_dataset("EuroSAT")


def test_the_root_may_be_the_folder_itself(mini_root):
    assert load(mini_root / "dtd", "dtd").class_names == CLASS_NAMES["dtd"]


def test_missing_images_are_counted_and_named_at_once(tmp_path):
    folder = mini.write_split_set(tmp_path, "dtd")
    entries = mini.split_entries("dtd")
    gone = [image for image, _, _ in entries["test"][:2]]
    for image in gone:
        (folder / "images" / str(image)).unlink()
    with pytest.raises(DataError, match=rf"dtd: 2 test images of 9 not found \('{gone[0]}', '{gone[1]}'\)"):
        choose(DataChoice("dtd", str(tmp_path)), 1, 1)


def test_test_only_sets_cannot_be_trained_on(mini_root):
    with pytest.raises(DataError, match="imagenet_a: this data set is for testing only"):
        choose(DataChoice("imagenet_a", str(mini_root)), 1, 1)


# ---- annotations that do not fit together


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, 9, "00001.jpg")], r"annotations\[0\] has class 9 of 5"),
        (None, r"annotations\[0\] has no 'fname' and 'class'"),
    ],
)
def test_broken_labels_of_cars(rows, message, without_split):
    root = without_split("stanford_cars")
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    content = np.array([1, 2]) if rows is None else np.array([rows], dtype=kind)
    savemat(root / "stanford_cars" / "devkit" / "cars_train_annos.mat", {"annotations": content})
    with pytest.raises(DataError, match=message):
        load(root, "stanford_cars")


def test_a_class_too_small_to_split(tmp_path):
    for i in range(2):
        mini.write_image(tmp_path / "dtd" / "images" / "banded" / f"{i}.jpg")
    with pytest.raises(DataError, match="class 'banded' has 2 images, too few to split 5 : 2 : 3"):
        load(tmp_path, "dtd")


def test_empty_lines_do_not_count_and_a_list_must_be_readable(without_split):
    root = without_split("sun397")
    path = root / "sun397" / "Testing_01.txt"
    path.write_text("\n" + path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    assert len(load(root, "sun397").test) == 12
    path.write_bytes(b"/a/abbey/\xff.jpg\n")
    with pytest.raises(DataError, match=r"Testing_01\.txt: cannot be read"):
        load(root, "sun397")


def test_a_split_without_test_images(tmp_path):
    folder = mini.write_split_set(tmp_path, "dtd")
    path = folder / "split_zhou_DescribableTextures.json"
    path.write_text(json.dumps(mini.split_entries("dtd") | {"test": []}), encoding="utf-8")
    with pytest.raises(DataError, match="there are no test images of DTD"):
        load(tmp_path, "dtd")
