"""The one way in: a path or a name becomes a ``Dataset``."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from blocklora.core.errors import DataError
from blocklora.data.assemble import is_text
from blocklora.data.bundled import bundled_names, load_bundled
from blocklora.data.folders import load_folder
from blocklora.data.hub import load_hub
from blocklora.data.literature.benchmarks import find_benchmark, known_benchmark, read_benchmark
from blocklora.data.tables import TABLE_ENDINGS, load_table
from blocklora.data.types import Dataset

__all__ = ["load_dataset"]


def load_dataset(data: str | Path, *, seed: int = 0, root: str | Path | None = None) -> Dataset:
    """Load a folder of class folders, a CSV or Parquet table, a data set by name, or a bundled task.

    Args:
        data: A path, ``hf:NAME`` (a data set of the Hugging Face hub), or a name from ``bundled_names()``; with
            ``root`` a name from ``BENCHMARKS``. A path that exists wins over a bundled name.
        root: The folder that holds the folders of the data sets.
        seed: Chooses the test images that are held out where the data has no test split; nothing else.

    Returns:
        The data set; its ``notes`` say what was decided on the way.

    Raises:
        DataError: If there is no such path or task, or it cannot be used; the message says what to change.
    """
    text = str(data)
    if root is not None:
        return read_benchmark(known_benchmark(text), Path(os.path.expanduser(str(root))))
    if text.startswith("hf:"):
        return load_hub(text.removeprefix("hf:"), seed=seed)
    path = Path(os.path.expanduser(text))  # unlike Path.expanduser, leaves the home of nobody as it is
    if not text.strip():
        raise DataError("the data set's name is empty: give a folder, a table, or a bundled task")
    if not is_text(os.path.realpath(path)):
        raise DataError(
            f"{os.path.realpath(path)!r}: this path is not valid Unicode: rename the folder or file"
        )
    kinds = "a folder of class folders, a CSV or Parquet table, or one of the bundled tasks"
    if os.path.isdir(path):
        found = load_folder(path, seed=seed)
    elif os.path.exists(path):
        if path.suffix.lower() not in TABLE_ENDINGS:
            raise DataError(
                f"{data}: a {path.suffix or 'file without ending'} file is no data set: give {kinds}"
            )
        found = load_table(path, seed=seed)
    elif text in bundled_names():
        return load_bundled(text, seed=seed)
    else:
        raise _unknown(text, kinds)
    if text in bundled_names():
        note = f"{text!r} is read from {path.resolve()}; the bundled task of that name is not used"
        return replace(found, notes=(note, *found.notes))
    return found


def _unknown(text: str, kinds: str) -> DataError:
    """Say that nothing is called so, and what comes near."""
    if row := find_benchmark(text):
        return DataError(
            f"{text}: {row.title} is known by name: add --root FOLDER, the folder that holds {row.folders[0]!r}; "
            f"'blocklora datasets {row.name}' shows what is expected"
        )
    near = difflib.get_close_matches(text.lower(), bundled_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return DataError(f"{text}: this path does not exist: give {kinds} ({', '.join(bundled_names())}){hint}")
