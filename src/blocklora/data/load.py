"""The one way in: a path or a name becomes a ``Dataset``."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from blocklora.data.assemble import is_text
from blocklora.data.bundled import bundled_names, load_bundled
from blocklora.data.folders import load_folder
from blocklora.data.tables import TABLE_ENDINGS, load_table
from blocklora.data.types import Dataset
from blocklora.errors import DataError

__all__ = ["load_dataset"]


def load_dataset(data: str | Path, *, seed: int = 0) -> Dataset:
    """Load a folder of class folders, a CSV or Parquet table, or a bundled task.

    Args:
        data: A path, or a name from ``bundled_names()``. A path that exists wins over a bundled name.
        seed: Chooses the test images that are held out where the data has no test split; nothing else.

    Returns:
        The data set; its ``notes`` say what was decided on the way.

    Raises:
        DataError: If there is no such path or task, or it cannot be used; the message says what to change.
    """
    text = str(data)
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
        near = difflib.get_close_matches(text.lower(), bundled_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{data}: this path does not exist: give {kinds} ({', '.join(bundled_names())}){hint}"
        )
    if text in bundled_names():
        note = f"{text!r} is read from {path.resolve()}; the bundled task of that name is not used"
        return replace(found, notes=(note, *found.notes))
    return found
