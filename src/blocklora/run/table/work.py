"""The work folder of a table, OUT.work: what was asked for, the listing, the journal; gone when the table is there.

It fills in this order: listing.jsonl; settings.json, with which the work can be gone on with; journal.jsonl. At the
end the table is written whole, and then settings.json goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora.classifier import CLASSIFIER_FILES
from blocklora.core.errors import ConfigError, DataError, RunError
from blocklora.core.files import claim_folder, write_json
from blocklora.core.fingerprint import fingerprint
from blocklora.core.shards import Shard
from blocklora.run.predict import Asked
from blocklora.run.table.columns import ONE_LABEL
from blocklora.run.table.features import part_of
from blocklora.run.table.formats import check_format
from blocklora.run.table.listing import write_listing

__all__ = ["LISTING", "TableOrder", "TableWork", "check_order", "classifier_fingerprint", "open_work"]

LISTING = "listing.jsonl"
_SETTINGS, _JOURNAL = "settings.json", "journal.jsonl"
_FORMAT = 1


@dataclass(frozen=True)
class TableOrder:
    """What is asked for.

    Attributes:
        run: The RUN folder.
        inputs: Files and folders to classify.
        out: The table: .csv, .jsonl or .parquet.
        asked: What is asked for of each image.
        abstain_below: The probability below which a row has no label, and its file stays where it is.
        features: A .npy file for unit features, a row for each row of the table.
        move_to: Where files are moved, into folders of their classes.
        copy_to: Where they are copied.
        shard: Which part of the images is answered.
    """

    run: Path
    inputs: Sequence[Path]
    out: Path
    asked: Asked = ONE_LABEL
    abstain_below: float = 0.0
    features: Path | None = None
    move_to: Path | None = None
    copy_to: Path | None = None
    shard: Shard | None = None

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.out.with_name(f"{self.out.name}.work")

    @property
    def moved(self) -> str | None:
        """The column that says where a file went."""
        return "moved_to" if self.move_to else "copied_to" if self.copy_to else None

    def settings(self) -> Mapping[str, Any]:
        """Return what must be the same where the work is gone on with, ready for JSON."""
        places = {"features": self.features, "move_to": self.move_to, "copy_to": self.copy_to}
        return {
            "images": [os.path.abspath(path) for path in self.inputs],
            **self.asked.settings(),
            "abstain_below": self.abstain_below,
            **{name: place and os.path.abspath(place) for name, place in places.items()},
            "shard": self.shard and self.shard.name,
        }


@dataclass(frozen=True)
class TableWork:
    """A work folder that is open.

    Attributes:
        order: What is asked for.
        n_images: How many there are.
        resumed: Whether it was begun before.
    """

    order: TableOrder
    n_images: int
    resumed: bool

    @property
    def listing(self) -> Path:
        """The images."""
        return self.order.folder / LISTING

    @property
    def journal(self) -> Path:
        """What is done."""
        return self.order.folder / _JOURNAL

    def end(self) -> None:
        """Remove the work folder; the table is there."""
        (self.order.folder / _SETTINGS).unlink(missing_ok=True)
        shutil.rmtree(self.order.folder, ignore_errors=True)


def check_order(order: TableOrder) -> None:
    """Check what can be checked before anything is read or written.

    Raises:
        ConfigError: A value cannot work; it is named.
        DataError: There is nothing of the name of an input.
    """
    check_format(order.out)
    if not 0 <= order.abstain_below <= 1:
        raise ConfigError(f"abstain_below {order.abstain_below}: expected a probability from 0 to 1.")
    _need_inputs(order)
    if order.move_to and order.copy_to:
        raise ConfigError("move_to and copy_to: expected one of them, not both.")
    if order.features and order.features.suffix.lower() != ".npy":
        raise ConfigError(f"features '{order.features}': expected a name that ends in .npy.")
    for file in (order.out, order.features):
        if file and not file.parent.is_dir():
            raise ConfigError(f"{file}: there is no folder {file.parent}; make it, or name another place.")
    target = order.move_to or order.copy_to
    if target and target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: this is a file; expected a folder, or a new name for one.")
    for folder in (path for path in order.inputs if target and path.is_dir()):
        if Path(os.path.realpath(target or "")).is_relative_to(os.path.realpath(folder)):
            raise ConfigError(
                f"{target}: lies in {folder}, whose images are classified; choose a folder outside of it."
            )


def _need_inputs(order: TableOrder) -> None:
    """Raise where nothing has the name of an input; work that goes on may have moved it, and has its listing."""
    for path in order.inputs:
        if not (os.path.lexists(path) or order.folder.exists()):
            raise DataError(f"{path}: this path does not exist; expected an image or a folder of images.")


@contextmanager
def open_work(order: TableOrder) -> Iterator[TableWork]:
    """List the images, or open what was begun before, and keep other processes out.

    Raises:
        ConfigError: As ``check_order``.
        DataError: There is no image.
        RunError: The table is there already, or was begun with another run or other settings, or another process is at
            work on it.
    """
    check_order(order)
    classifier = classifier_fingerprint(order.run)
    settings = {"format": _FORMAT, "classifier": classifier, **order.settings()}
    try:
        with claim_folder(order.folder) as folder:
            resumed = (folder / _SETTINGS).exists()
            if resumed:
                _check_same(order, settings)
            else:
                for name in (
                    LISTING,
                    _JOURNAL,
                ):  # of a listing that was not whole, or of a table that is there
                    (folder / name).unlink(missing_ok=True)
                _check_free(order)
                _begin(order, settings)
            with open(folder / LISTING, "rb") as stream:
                n_images = sum(1 for _ in stream)
            yield TableWork(order, n_images, resumed)
    finally:
        with suppress(OSError):
            order.folder.rmdir()  # refuses a folder that holds something


def _begin(order: TableOrder, settings: Mapping[str, Any]) -> None:
    """List the images, and say what is asked for."""
    if not write_listing(order.folder / LISTING, order.inputs, order.shard):
        (order.folder / LISTING).unlink()
        names = ", ".join(map(str, order.inputs))
        part = f" in part {order.shard.name}" if order.shard else ""
        raise DataError(f"{names}: there are no images here{part}; name images, or folders of images.")
    write_json(order.folder / _SETTINGS, {**settings, "run": os.path.abspath(order.run)})


def _check_free(order: TableOrder) -> None:
    """Raise where a file that is to be made is there."""
    for path in (order.out, order.features, order.features and part_of(order.features)):
        if path and os.path.lexists(path):
            raise RunError(f"{path}: is there already; choose another name, or delete it.")


def _check_same(order: TableOrder, settings: Mapping[str, Any]) -> None:
    """Raise where the work was begun with another run or other settings."""
    path = order.folder / _SETTINGS
    hint = f"go on with the same, or delete the folder {order.folder} to begin anew."
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        run = before.pop("run")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete the folder to begin anew.") from error
    if before.get("classifier") != settings["classifier"]:
        raise RunError(f"{order.out}: was begun with another classifier, of {run}; {hint}")
    for name in {**settings, **before}:
        old, new = before.get(name), settings.get(name)
        if old != new:
            raise RunError(f"{order.out}: was begun with {name} = {old}, not {new}; {hint}")


def classifier_fingerprint(run: Path) -> str:
    """Return a hash of the classifier in a RUN folder."""
    digests = {}
    for name in CLASSIFIER_FILES:
        place = run / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                with open(path, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256")
                digests[path.relative_to(run).as_posix()] = digest.hexdigest()
    return fingerprint(digests)
