"""The one way in: a path or a name becomes a ``Dataset``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.core.files import user_path
from blocklora.core.words import did_you_mean
from blocklora.data.assemble import assemble, is_text
from blocklora.data.bundled import bundled_names, read_bundled
from blocklora.data.folders import read_folder
from blocklora.data.hub import read_hub
from blocklora.data.images import why_missing
from blocklora.data.literature.benchmarks import find_benchmark, known_benchmark, read_benchmark
from blocklora.data.tables import TABLE_ENDINGS, read_table
from blocklora.data.types import Dataset

__all__ = ["load_dataset", "read_dataset"]

_KINDS = "a folder of class folders, a CSV or Parquet table, or one of the bundled tasks"


def load_dataset(
    data: str | Path, *, seed: int = 0, root: str | Path | None = None, hold_out: bool = True
) -> Dataset:
    """Load a folder of class folders, a CSV or Parquet table, a data set by name, or a bundled task.

    Args:
        data: A path, ``hf:NAME`` (a data set of the Hugging Face hub), or a name from ``bundled_names()``; with
            ``root`` a name from ``BENCHMARKS``. A path that exists wins over a bundled name.
        root: The folder that holds the folders of the data sets.
        seed: Chooses the test images that are held out where the data has no test split; nothing else.
        hold_out: Whether test images are held out where the data has no test split.

    Returns:
        The data set; its ``notes`` say what was decided on the way.

    Raises:
        DataError: If there is no such path or task, or it cannot be used; the message says what to change.
    """
    found = read_dataset(data, root)
    return found if root is not None else assemble(found, seed=seed, hold_out=hold_out)


def read_dataset(data: str | Path, root: str | Path | None = None, *, training: bool = True) -> Dataset:
    """Read a data set as it lies there, with nothing held out.

    Args:
        data: As for ``load_dataset``.
        root: As for ``load_dataset``.
        training: Whether it is to be trained on: a folder that is only tested needs no train/.

    Raises:
        DataError: If there is no such path or task, or it cannot be read.
    """
    text = str(data)
    if root is not None:
        return read_benchmark(known_benchmark(text), user_path(root))
    if text.startswith("hf:"):
        return read_hub(text.removeprefix("hf:"))
    if not text.strip():
        raise DataError("the data set's name is empty: give a folder, a table, or a bundled task")
    path = user_path(text)
    if not os.path.exists(path) and text in bundled_names():
        return read_bundled(text)
    found = _read_path(text, path, training)
    if text in bundled_names():
        note = f"{text!r} is read from {path.resolve()}; the bundled task of that name is not used"
        return replace(found, notes=(note, *found.notes))
    return found


def _read_path(text: str, path: Path, training: bool) -> Dataset:
    """Read the folder or table that a user calls ``text``."""
    if not is_text(os.path.realpath(path)):
        raise DataError(
            f"{os.path.realpath(path)!r}: this path is not valid Unicode: rename the folder or file"
        )
    if os.path.isdir(path):
        return read_folder(path, training=training)
    if not os.path.exists(path):
        if os.path.islink(path):
            raise DataError(f"{text}: {why_missing(path)}: correct the link, or give {_KINDS}")
        raise _unknown(text)
    if path.suffix.lower() not in TABLE_ENDINGS:
        raise DataError(
            f"{text}: a {path.suffix or 'file without ending'} file is no data set: give {_KINDS}"
        )
    return read_table(path)


def _unknown(text: str) -> DataError:
    """Say that nothing is called so, and what comes near."""
    if row := find_benchmark(text):
        return DataError(
            f"{text}: {row.title} is known by name: add --root FOLDER, the folder that holds {row.folders[0]!r}; "
            f"'blocklora datasets {row.name}' shows what is expected"
        )
    hint = did_you_mean(text, bundled_names())
    return DataError(f"{text}: this path does not exist: give {_KINDS} ({', '.join(bundled_names())}){hint}")
