"""ImageNet and its four test-only variants: folders named by WordNet id, or by class number in ImageNetV2.

Class names come from ``classnames.txt`` ("n01440764 tench" a line) in the data set's folder or in ImageNet's beside it;
without one from the bundled list, the names of openai/CLIP ``notebooks/Prompt_Engineering_for_ImageNet.ipynb``
(MIT), of which two stand twice. Folders and files are taken in the sorted order of their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.words import count, name_some
from blocklora.data.images import IMAGE_ENDINGS
from blocklora.data.index_cache import listings
from blocklora.data.literature.split_files import Found
from blocklora.data.types import Example

__all__ = ["imagenet", "numbered", "wordnet_folders"]

CLASSNAMES = "classnames.txt"
_BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "imagenet" / CLASSNAMES


def imagenet(folder: Path, images: Path) -> Found:
    """Read ``train/`` and ``val/``, of which ``val/`` is the test part, as in all of the literature.

    Args:
        folder: The data set's folder.
        images: The folder of ``train`` and ``val``.

    Raises:
        DataError: A part is missing, or has loose images or folders of its own.
    """
    names = _names(folder)
    folders = _class_folders(images / "train", names)
    tested = _class_folders(images / "val", names)
    if unknown := sorted(set(tested) - set(folders)):
        raise DataError(
            f"{images / 'val'}: no training images for {name_some(unknown)}: remove them, or add them to train"
        )
    absent = [name for name in folders if name not in tested]
    parts = {
        "train": _examples(images, "train", folders),
        "test": _examples(images, "val", folders, absent),
    }
    return Found(
        tuple(names[name] for name in folders),
        parts,
        notes=(
            "ImageNet's validation folder is the test part, so no setting and no step is chosen by it: validation "
            "images are training images that the shots left over",
            "images of a class are in the order of their names; CoOp's published runs took the order of os.listdir, "
            "which differs between disks, so their sample cannot be repeated exactly",
        ),
    )


def wordnet_folders(folder: Path, images: Path) -> Found:
    """Read ImageNet-Sketch, -A or -R: the classes are the folders that are there."""
    names = _names(folder)
    folders = _class_folders(images, names)
    return Found(tuple(names[name] for name in folders), {"test": _examples(images, "", folders)})


def numbered(folder: Path, images: Path) -> Found:
    """Read ImageNetV2: folder N holds images of the class in line N, counted from 0, of the class names."""
    names = list(_names(folder).values())
    wanted = [str(label) for label in range(len(names))]
    (there,) = listings([images])
    if unknown := sorted(name for name in there if name not in wanted and (images / name).is_dir()):
        raise DataError(f"{images}: {name_some(unknown)} is no class number below {len(names)}: remove it")
    absent = sorted(set(wanted) - set(there), key=int)
    notes = (f"{count(len(absent), 'class')} without a folder: {name_some(absent)}",) if absent else ()
    return Found(tuple(names), {"test": _examples(images, "", wanted, absent)}, notes)


def _names(folder: Path) -> dict[str, str]:
    """Return class names by WordNet id, in the order of the file."""
    places = [folder / CLASSNAMES, folder.parent / "imagenet" / CLASSNAMES, _BUNDLED]
    path = next(place for place in places if place.is_file() or place is _BUNDLED)
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        wordnet, _, name = line.strip().partition(" ")
        if line.strip() and (not name.strip() or wordnet in names):
            raise DataError(f"{path}: line {number} {line!r}: expected a WordNet id of its own and a name")
        if line.strip():
            names[wordnet] = name.strip()
    return names


def _class_folders(images: Path, names: dict[str, str]) -> list[str]:
    """Return the class folders, sorted; every one must have a name."""
    if not images.is_dir():
        raise DataError(f"{images}: there is no such folder: put the class folders there")
    (entries,) = listings([images])
    loose = [name for name in entries if Path(name).suffix.lower() in IMAGE_ENDINGS]
    folders = [name for name in entries if name not in loose and (images / name).is_dir()]
    if unknown := [name for name in folders if name not in names]:
        raise DataError(
            f"{images}: no class name for the folder {name_some(unknown)}: add it to {CLASSNAMES}, or remove it"
        )
    if loose or not folders:
        found = (
            f"{count(len(loose), 'image')} without a class folder, e.g. {loose[0]!r}"
            if loose
            else "no class folders"
        )
        raise DataError(
            f"{images}: {found}: move the images of each class into a folder named by its WordNet id"
        )
    return folders


def _examples(
    images: Path, part: str, folders: Sequence[str], absent: Sequence[str] = ()
) -> tuple[Example, ...]:
    """Label the images of class folders, labels in the order of the folders."""
    there = [name for name in folders if name not in absent]
    files = dict(zip(there, listings([images / part / name for name in there]), strict=True))
    prefix = f"{part}/" if part else ""
    found = []
    for label, name in enumerate(folders):
        folder = images / part / name
        found += [
            Example(f"{prefix}{name}/{file}", label, folder / file)
            for file in files.get(name, ())
            if file[file.rfind(".") :].lower() in IMAGE_ENDINGS
        ]
    return tuple(found)
