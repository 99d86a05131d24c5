"""Data sets of the Hugging Face hub, ``hf:NAME``, through the Parquet copies that the hub makes of every public set.

The Parquet files are downloaded by huggingface_hub, and their images unpacked once into ``cache_folder()``: from
there on they are files like all others, read one at a time, whatever the size of the set.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download

from blocklora.core.errors import DataError
from blocklora.core.files import write_folder, write_json
from blocklora.core.words import count, name_some
from blocklora.data.assemble import SPLIT_NAMES, in_order, take_val_as_test
from blocklora.data.index_cache import cache_folder
from blocklora.data.literature.benchmarks import find_benchmark
from blocklora.data.types import Dataset, Example

__all__ = ["hub_folder", "read_hub"]

_REVISION = "refs/convert/parquet"
_IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
_LABELS = ("label", "labels", "fine_label", "class", "cls", "variant", "category", "coarse_label")
_LISTING = "listing.json"


@dataclass(frozen=True)
class _Listing:
    """The unpacked images of a data set.

    Attributes:
        stamp: The split and the path of every Parquet file that they are from.
        columns: Of the images, and of the labels.
        names: Of the classes, if the hub has them; a label is then a place among them.
        rows: By split, the file and the label of every image.
    """

    stamp: Sequence[Sequence[str]]
    columns: Sequence[str]
    names: Sequence[str]
    rows: Mapping[str, Sequence[tuple[str, Any]]]


def read_hub(name: str) -> Dataset:
    """Download a data set of the hub, or take it from the cache.

    The split "validation" is the test part where no "test" is there, as in ImageNet and Food101.

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME:CONFIG``.

    Returns:
        The data set as it lies there: nothing is held out. Its prompt is that of the known data set whose name it
        carries.

    Raises:
        DataError: pyarrow is not installed, the hub cannot be reached, or the set has no image or label column.
    """
    repository, _, config = name.partition(":")
    stored = _stored(name)
    try:
        files = _parquet_files(name, repository, config)
    except DataError:
        if stored is None:
            raise
        listing = stored  # unpacked before, and the hub is out of reach now
    else:
        listing = _unpacked(name, repository, files, stored)
    folder, columns = hub_folder(name), listing.columns
    raw = listing.names or in_order({str(label) for rows in listing.rows.values() for _, label in rows})
    labels = {label: place for place, label in enumerate(raw)}
    parts: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    for split, rows in listing.rows.items():
        for image, label in rows:
            place = label if listing.names else labels[str(label)]
            if not isinstance(place, int) or not 0 <= place < len(raw):
                raise DataError(f"hf:{name}: {image} has label {label!r}: expected one of {len(raw)} classes")
            parts[SPLIT_NAMES[split]].append(Example(image, place, folder / image))
    notes = [f"read from {columns[0]!r} and {columns[1]!r} of {repository} on the hub"]
    if take_val_as_test(parts):
        notes.append(
            "the hub's set has no test split: its validation split is the test part, so no setting is chosen by it"
        )
    train, val, test = (tuple(parts[part]) for part in ("train", "val", "test"))
    dataset = Dataset(repository, tuple(map(_cleaned, raw)), train, val, test, notes=tuple(notes))
    known = find_benchmark(re.sub(r"^.*/(wds_)?(vtab-)?", "", repository))
    return replace(dataset, prompt=known.prompt) if known else dataset


def _parquet_files(name: str, repository: str, config: str) -> dict[str, list[str]]:
    """Ask the hub which Parquet files hold which split: {"train": ["default/train/0000.parquet", ...], ...}."""
    try:
        listed = HfApi().list_repo_files(repository, repo_type="dataset", revision=_REVISION)
    except Exception as error:  # the hub's client raises many kinds of errors, offline or for an unknown name
        raise DataError(
            f"hf:{name}: the hub has no such data set, or cannot be reached ({type(error).__name__}: {error}): check "
            "the name and the network"
        ) from error
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(listed):
        match = re.fullmatch(r"([^/]+)/(?:partial-)?([^/]+)/\d+\.parquet", path)
        if match and match[2].lower() in SPLIT_NAMES:
            found.setdefault(match[1], {}).setdefault(match[2].lower(), []).append(path)
    wanted = config or ("default" if "default" in found else next(iter(found), ""))
    if wanted not in found or (not config and len(found) > 1 and wanted != "default"):
        raise DataError(
            f"hf:{name}: choose a configuration of {repository}, as in hf:{repository}:{wanted or 'NAME'}; "
            f"found are {name_some(found) or 'none with a train, validation or test split'}"
        )
    return found[wanted]


def hub_folder(name: str) -> Path:
    """Return where the images of a data set are unpacked."""
    return cache_folder() / "hub" / re.sub(r"[^\w.-]", "--", name)


def _stored(name: str) -> _Listing | None:
    """Return the listing of images unpacked before, if there is a good one."""
    try:
        return _Listing(**json.loads((hub_folder(name) / _LISTING).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _unpacked(
    name: str, repository: str, files: Mapping[str, Sequence[str]], stored: _Listing | None
) -> _Listing:
    """Return the listing of the unpacked images, after unpacking them unless ``stored`` is of the same files."""
    local = {}
    for split, paths in files.items():
        local[split] = [_download(name, repository, path) for path in paths]
    stamp = [[split, os.path.realpath(path)] for split, paths in local.items() for path in paths]
    if stored and stored.stamp == stamp:
        return stored
    folder = hub_folder(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return _write(name, local, stamp, folder)
    except OSError as error:
        raise DataError(
            f"hf:{name}: its images cannot be unpacked into {folder} ({error}): name another folder with the "
            "variable BLOCKLORA_CACHE"
        ) from error


def _write(
    name: str, local: Mapping[str, Sequence[str]], stamp: Sequence[Sequence[str]], folder: Path
) -> _Listing:
    """Unpack Parquet files by split into a folder, and return the listing that is written beside the images."""
    with write_folder(folder) as temporary:
        rows: dict[str, list[tuple[str, Any]]] = {}
        names: list[str] = []
        columns: list[str] = []
        for split, paths in local.items():
            rows[split] = []
            for path in paths:
                names, columns = _unpack(name, path, temporary, split, rows[split])
        listing = _Listing(stamp, columns, names, rows)
        write_json(temporary / _LISTING, vars(listing))
    return listing


def _download(name: str, repository: str, path: str) -> str:
    try:
        return hf_hub_download(repository, path, repo_type="dataset", revision=_REVISION)
    except Exception as error:
        raise DataError(
            f"hf:{name}: {path} cannot be downloaded ({error}): check the network and the disk"
        ) from error


def _unpack(
    name: str, path: str, folder: Path, split: str, rows: list[tuple[str, Any]]
) -> tuple[list[str], list[str]]:
    """Write the images of one Parquet file and append image and label to rows; return class names and columns."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f'hf:{name}: reading the hub needs pyarrow: pip install "blocklora[data]"') from None
    (folder / split).mkdir(exist_ok=True)
    with parquet.ParquetFile(path) as table:
        features = _features(table.schema_arrow.metadata)
        columns = list(_columns(name, table.schema_arrow.names, features))
        for batch in table.iter_batches(batch_size=64, columns=columns):
            for cell, label in _cells(batch, columns):
                content = cell.get("bytes") if isinstance(cell, dict) else cell
                if not isinstance(content, bytes) or label is None:
                    raise DataError(f"hf:{name}: row {len(rows)} of {split} has no image or no label")
                image = f"{split}/{len(rows):07d}{_ending(content)}"
                (folder / image).write_bytes(content)
                rows.append((image, label))
    return features.get(columns[1], {}).get("names") or [], columns


def _cells(batch: Any, columns: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    return zip(*(batch.column(column).to_pylist() for column in columns), strict=True)


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Mapping[str, Any]]:
    """Return what the hub says of the columns: {"image": {"_type": "Image"}, "label": {"names": [...]}}."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: held for name, held in features.items() if isinstance(held, dict)}


def _columns(name: str, there: Sequence[str], features: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Find the columns of images and labels: by what the hub says of them, else by their names."""
    images = [column for column in there if features.get(column, {}).get("_type") == "Image"]
    labels = [column for column in there if features.get(column, {}).get("names")]

    def first(wanted: Sequence[str], typed: Sequence[str]) -> str | None:
        usual = [column for word in wanted for column in there if column.lower() == word]
        both = [column for column in usual if column in typed]
        return next(iter([*both, *typed, *usual]), None)

    image, label = first(_IMAGES, images), first(_LABELS, labels)
    if image is None or label is None:
        raise DataError(
            f"hf:{name}: no column of {'images' if image is None else 'labels'} among {name_some(there)} "
            f"({count(len(there), 'column')}): choose a set for image classification"
        )
    return image, label


def _cleaned(name: str) -> str:
    """Take the first of several synonyms, and blanks for "_": "n01440764 tench, Tinca tinca" -> "tench"."""
    text = re.sub(r"^n\d{8}[ _]", "", name).split(", ")[0].replace("_", " ").strip()
    return text or name


def _ending(content: bytes) -> str:
    """Return the file ending of an image's first bytes; what opens it goes by its content anyway."""
    heads = {
        b"\x89PNG": ".png",
        b"GIF8": ".gif",
        b"BM": ".bmp",
        b"RIFF": ".webp",
        b"II*\0": ".tif",
        b"MM\0*": ".tif",
    }
    return next((ending for head, ending in heads.items() if content.startswith(head)), ".jpg")
