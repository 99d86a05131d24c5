"""The data sets of the literature by name: eleven to train on, and four shifted ImageNets to test on.

Folders, split files and prompts are those of KaiyangZhou/CoOp ``DATASETS.md``, ``datasets/*.py`` and
``trainers/zsclip.py``; the second folder of a row is the one of MaxZanella/CLIP-LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.words import did_you_mean, name_some
from blocklora.data.index_cache import listings
from blocklora.data.literature import imagenet, originals
from blocklora.data.literature.split_files import Entry, Found, checked, read_split_file
from blocklora.data.types import Dataset, Example

__all__ = [
    "BENCHMARKS",
    "SHIFTS",
    "TRAINABLE",
    "Benchmark",
    "find_benchmark",
    "known_benchmark",
    "missing",
    "read_benchmark",
]

PLAIN = "a photo of a {}."


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes:
        name: What the command line calls it.
        title: What papers call it.
        folders: Names of its folder below the root; the first one that is there is read.
        images: Where in it the images are; the first one that is there is read.
        prompt: CoOp's template.
        page: Where to get it.
        n_classes: How many classes the whole set has.
        split: CoOp's split file in the folder; empty where there is none.
        originals: The original annotations that ``rebuild`` needs, relative to the folder.
        rebuild: Makes the parts as CoOp does from folder and image folder, where the split file is missing.
        read: Reads folder and image folder, where no split file exists at all.
        aliases: Other names.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    images: tuple[str, ...]
    prompt: str
    page: str
    n_classes: int
    split: str = ""
    originals: tuple[str, ...] = ()
    rebuild: Callable[[Path, Path], dict[str, list[Entry]]] | None = None
    read: Callable[[Path, Path], Found] | None = None
    aliases: tuple[str, ...] = ()

    def folder(self, root: Path) -> Path | None:
        """Return the data set's folder below a root, or the root itself where it is that folder."""
        places = [root / name for name in self.folders]
        if root.name in self.folders:
            places.append(root)
        there = [place for place in places if place.is_dir()]
        whole = [place for place in there if self.image_folder(place).is_dir()]
        return next(iter(whole + there), None)

    def image_folder(self, folder: Path) -> Path:
        """Return where the images of the data set's folder are."""
        places = [folder / images for images in self.images]
        return next((place for place in places if place.is_dir()), places[0])


def _with_folder(
    read: Callable[[Path], dict[str, list[Entry]]],
) -> Callable[[Path, Path], dict[str, list[Entry]]]:
    """Adapt a reader that needs no image folder."""
    return lambda folder, images: read(folder)


def _by_folders(
    ignored: tuple[str, ...] = (), **renamed: str
) -> Callable[[Path, Path], dict[str, list[Entry]]]:
    """Make a reader of class folders."""
    return lambda folder, images: originals.class_folders(images, ignored, renamed)


def _aircraft(folder: Path, images: Path) -> Found:
    """Read the official split of FGVCAircraft."""
    return checked(originals.aircraft(folder), folder, images)


_ROWS = (
    Benchmark(
        "caltech101", "Caltech101", ("caltech-101", "Caltech101"), ("101_ObjectCategories",), PLAIN,
        "https://data.caltech.edu/records/mzrjq-6wc02", 100, "split_zhou_Caltech101.json",
        rebuild=_by_folders(
            ("BACKGROUND_Google", "Faces_easy"),
            airplanes="airplane", Faces="face", Leopards="leopard", Motorbikes="motorbike",
        ),
    ),
    Benchmark(
        "oxford_pets", "OxfordPets", ("oxford_pets", "OxfordPets"), ("images",),
        "a photo of a {}, a type of pet.",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/", 37, "split_zhou_OxfordPets.json",
        originals=("annotations/trainval.txt", "annotations/test.txt"),
        rebuild=_with_folder(originals.pets), aliases=("pets", "oxfordiiitpet"),
    ),
    Benchmark(
        "stanford_cars", "StanfordCars", ("stanford_cars", "StanfordCars"), ("",), PLAIN,
        "http://ai.stanford.edu/~jkrause/cars/car_dataset.html", 196, "split_zhou_StanfordCars.json",
        originals=("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"),
        rebuild=_with_folder(originals.cars), aliases=("cars",),
    ),
    Benchmark(
        "oxford_flowers", "Flowers102", ("oxford_flowers", "Flower102"), ("jpg",),
        "a photo of a {}, a type of flower.",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", 102, "split_zhou_OxfordFlowers.json",
        originals=("imagelabels.mat", "cat_to_name.json"),
        rebuild=_with_folder(originals.flowers), aliases=("flowers", "flower102", "flowers102", "oxfordflowers102"),
    ),
    Benchmark(
        "food101", "Food101", ("food-101", "Food101"), ("images",), "a photo of {}, a type of food.",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", 101, "split_zhou_Food101.json",
        rebuild=_by_folders(),
    ),
    Benchmark(
        "fgvc_aircraft", "FGVCAircraft", ("fgvc_aircraft",), ("images",),
        "a photo of a {}, a type of aircraft.",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", 100,
        originals=("variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test"))),
        read=_aircraft, aliases=("fgvc", "aircraft"),
    ),
    Benchmark(
        "sun397", "SUN397", ("sun397", "SUN397"), ("SUN397",), PLAIN,
        "https://vision.princeton.edu/projects/2010/SUN/", 397, "split_zhou_SUN397.json",
        originals=("ClassName.txt", "Training_01.txt", "Testing_01.txt"), rebuild=_with_folder(originals.sun),
    ),
    Benchmark(
        "dtd", "DTD", ("dtd", "DTD"), ("images",), "{} texture.",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/", 47, "split_zhou_DescribableTextures.json",
        rebuild=_by_folders(), aliases=("describabletextures",),
    ),
    Benchmark(
        "eurosat", "EuroSAT", ("eurosat", "EuroSAT"), ("2750",), "a centered satellite photo of {}.",
        "https://github.com/phelber/EuroSAT", 10, "split_zhou_EuroSAT.json",
        rebuild=_by_folders(
            AnnualCrop="Annual Crop Land", HerbaceousVegetation="Herbaceous Vegetation Land",
            Highway="Highway or Road", Industrial="Industrial Buildings", Pasture="Pasture Land",
            PermanentCrop="Permanent Crop Land", Residential="Residential Buildings", SeaLake="Sea or Lake",
        ),
    ),
    Benchmark(
        "ucf101", "UCF101", ("ucf101", "UCF101"), ("UCF-101-midframes",), "a photo of a person doing {}.",
        "https://www.crcv.ucf.edu/data/UCF101.php", 101, "split_zhou_UCF101.json",
        originals=tuple(f"ucfTrainTestlist/{name}.txt" for name in ("classInd", "trainlist01", "testlist01")),
        rebuild=_with_folder(originals.ucf),
    ),
    Benchmark(
        "imagenet", "ImageNet", ("imagenet", "ImageNet"), ("images", ""), PLAIN,
        "https://image-net.org/", 1000, read=imagenet.imagenet, aliases=("ilsvrc2012", "imagenet1k"),
    ),
    Benchmark(
        "imagenetv2", "ImageNetV2", ("imagenetv2",), ("imagenetv2-matched-frequency-format-val",), PLAIN,
        "https://github.com/modestyachts/ImageNetV2", 1000, read=imagenet.numbered,
    ),
    Benchmark(
        "imagenet_sketch", "ImageNet-Sketch", ("imagenet-sketch",), ("images",), PLAIN,
        "https://github.com/HaohanWang/ImageNet-Sketch", 1000, read=imagenet.wordnet_folders,
    ),
    Benchmark(
        "imagenet_a", "ImageNet-A", ("imagenet-adversarial",), ("imagenet-a",), PLAIN,
        "https://github.com/hendrycks/natural-adv-examples", 200, read=imagenet.wordnet_folders,
    ),
    Benchmark(
        "imagenet_r", "ImageNet-R", ("imagenet-rendition",), ("imagenet-r",), PLAIN,
        "https://github.com/hendrycks/imagenet-r", 200, read=imagenet.wordnet_folders,
    ),
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
SHIFTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
TRAINABLE = tuple(name for name in BENCHMARKS if name not in SHIFTS)


def find_benchmark(name: str) -> Benchmark | None:
    """Return the data set of a name, whatever its case, blanks, "-" and "_" ("OxfordPets", "oxford_pets", "pets")."""
    plain = _plain(name)
    for row in _ROWS:
        if plain in (_plain(row.name), _plain(row.title), *row.aliases):
            return row
    return None


def known_benchmark(name: str) -> Benchmark:
    """Return the data set of a name.

    Raises:
        DataError: There is none; the message names the nearest.
    """
    found = find_benchmark(name)
    if found is None:
        raise DataError(
            f"no data set is called {name!r}: choose one of {', '.join(BENCHMARKS)}{did_you_mean(name, BENCHMARKS)}"
        )
    return found


def read_benchmark(row: Benchmark, root: Path) -> Dataset:
    """Read a data set below a root folder.

    Args:
        row: Which one.
        root: The folder that holds the data sets' folders, or the data set's own folder.

    Returns:
        All its images in published order; ``train`` is empty for the four test-only sets.

    Raises:
        DataError: Folder, images, or split and annotations are missing or broken.
    """
    folder = row.folder(root)
    ask = f"'blocklora datasets {row.name} --root {root}' shows what is expected; the data is at {row.page}"
    if folder is None:
        raise DataError(
            f"{root}: holds no folder {' or '.join(map(repr, row.folders))} for {row.title}: {ask}"
        )
    images = row.image_folder(folder)
    if not images.is_dir():
        raise DataError(f"{images}: the images of {row.title} are not there: {ask}")
    if row.split and (folder / row.split).is_file():
        found = read_split_file(folder / row.split, images)
    elif row.rebuild:
        lost = [name for name in row.originals if not (folder / name).is_file()]
        if lost:
            raise DataError(f"{folder}: neither {row.split} nor {name_some(lost)} is there: {ask}")
        found = checked(row.rebuild(folder, images), folder, images)
        found = replace(found, notes=(_rebuilt(row),))
    else:
        assert row.read is not None  # every row has a split file or a reader of its own
        found = row.read(folder, images)
    train, val, test = (tuple(found.parts.get(part, ())) for part in ("train", "val", "test"))
    if not test:
        raise DataError(f"{folder}: there are no test images of {row.title}: {ask}")
    notes = list(found.notes)
    if len(found.class_names) != row.n_classes:
        n = len(found.class_names)
        notes.append(f"{row.title} has {row.n_classes} classes, but {n} {'is' if n == 1 else 'are'} here")
    return Dataset(row.name, found.class_names, train, val, test, prompt=row.prompt, notes=tuple(notes))


def missing(examples: Iterable[Example]) -> list[str]:
    """Return the names of images whose file is not there; every folder is listed once, not every file asked for."""
    files = [(e.image, e.source) for e in examples if isinstance(e.source, Path)]
    folders = list(dict.fromkeys(source.parent for _, source in files))
    there = [folder for folder in folders if folder.is_dir()]
    names = dict(zip(there, map(set, listings(there)), strict=True))
    unlisted = [file for file in files if file[1].name not in names.get(file[1].parent, ())]
    return [image for image, source in unlisted if not source.exists()]  # a disk may spell Unicode otherwise


def _rebuilt(row: Benchmark) -> str:
    what = "the original annotations" if row.originals else "the class folders"
    return (
        f"{row.split} is not there: the split is made from {what} by CoOp's rule with seed "
        f"{originals.SPLIT_SEED}; it differs from the published one, so results cannot be compared image by image"
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
