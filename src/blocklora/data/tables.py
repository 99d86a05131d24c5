"""A data set as a CSV or Parquet table with columns ``image``, ``label`` and, if wanted, ``split``.

Rows are counted as a spreadsheet shows them: the header of a CSV is row 1. A Parquet table has no header
row, so its first row is row 1.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora.core.errors import DataError
from blocklora.core.files import user_path
from blocklora.core.words import count, name_some, printable
from blocklora.data.assemble import SPLIT_NAMES, in_order, take_val_as_test
from blocklora.data.images import why_missing
from blocklora.data.names import Finder
from blocklora.data.types import Dataset, Example

__all__ = ["TABLE_ENDINGS", "read_table"]

TABLE_ENDINGS = (".csv", ".parquet", ".tsv")
_WANTED = ("image", "label", "split")
_EXPECTED = "columns 'image' (a path), 'label' and optionally 'split' (train, val or test)"


@dataclass(frozen=True)
class _TableRow:
    number: int
    image: str | bytes
    label: str
    split: str


def read_table(table: Path) -> Dataset:
    """Read a table of labelled images.

    Image paths are relative to the table's folder, or absolute. Labels are text or numbers; a number becomes
    its text (3.0 in a Parquet column is "3"), and integer labels of a Hugging Face Parquet file take the
    class names that it carries. Classes are sorted by name without case, numbers by value; images keep the
    table's order. Other columns are ignored. A Parquet cell may hold ``{"bytes", "path"}`` instead of a path.

    Args:
        table: An existing .csv, .tsv or .parquet file.

    Returns:
        The data set as the table has it: nothing is held out. With training and validation images but no test images,
        the validation images are the test part.

    Raises:
        DataError: If a column, label, split or image file is missing or wrong, an image has two labels or two
            splits, or the table cannot be read. The message names the row and the value.
    """
    rows = _parquet_rows(table) if table.suffix.lower() == ".parquet" else _csv_rows(table)
    if not rows:
        raise DataError(f"{table}: the table has no rows: give one row an image, with {_EXPECTED}")
    parts_of = _parts(table, rows)
    class_names = in_order(row.label for row in rows)
    labels = {name: label for label, name in enumerate(class_names)}
    parts: dict[str, list[Example]] = {"train": [], "val": [], "test": []}
    first: dict[str, tuple[_TableRow, str]] = {}
    missing: list[str] = []
    repeated = 0
    finder = Finder()
    for row, part in zip(rows, parts_of, strict=True):
        if isinstance(row.image, bytes):
            parts[part].append(Example(f"{table.name}#{row.number}", labels[row.label], row.image))
            continue
        image = _posix(table.parent, row.image)
        path = finder.find(table.parent, image)
        place = os.path.normcase(os.path.abspath(path or table.parent / image))
        earlier = first.setdefault(place, (row, part))
        if earlier[0] is not row:
            _refuse_conflict(table, earlier, (row, part))
            repeated += 1
        elif path:
            parts[part].append(Example(printable(image), labels[row.label], path))
        else:
            link = table.parent / image
            reason = f", {why_missing(link)}" if link.is_symlink() else ""
            missing.append(f"row {row.number}: {row.image}{reason}")
    _refuse_missing(table, missing)
    notes = [f"{count(repeated, 'row')} repeating an image ignored"] if repeated else []
    if take_val_as_test(parts):
        notes.append(
            "no test split found: the validation split is the test part, so that no setting is chosen by it"
        )
    train, val, test = (tuple(parts[part]) for part in ("train", "val", "test"))
    return Dataset(table.stem, tuple(class_names), train, val, test, notes=tuple(notes))


def _refuse_missing(table: Path, missing: Sequence[str]) -> None:
    """Raise where there are images that were not found."""
    if missing:
        raise DataError(
            f"{table}: {count(len(missing), 'image file')} not found ({name_some(missing)}): paths are "
            f"relative to {table.parent}; correct them, or copy the images there"
        )


def _parts(table: Path, rows: Sequence[_TableRow]) -> list[str]:
    """Return "train", "val" or "test" for each row; all rows are for training where no row names a split."""
    if not any(row.split for row in rows):
        return ["train"] * len(rows)
    for row in rows:
        if row.split.lower() not in SPLIT_NAMES:
            raise DataError(
                f"{table}: row {row.number} has split {row.split!r}: write train, val or test in every row, "
                "or in none"
            )
    return [SPLIT_NAMES[row.split.lower()] for row in rows]


def _posix(folder: Path, text: str) -> str:
    """Write a cell's path with "/" and without "~", also where a table from Windows has backslashes."""
    path = user_path(text).as_posix()
    return path if "\\" not in path or os.path.exists(folder / path) else path.replace("\\", "/")


def _refuse_conflict(table: Path, earlier: tuple[_TableRow, str], later: tuple[_TableRow, str]) -> None:
    (one, one_part), (two, two_part) = earlier, later
    if one.label != two.label:
        raise DataError(
            f"{table}: {_shown(two.image)} has label {one.label!r} in row {one.number} and {two.label!r} in "
            f"row {two.number}: keep one label an image"
        )
    if one_part != two_part:
        raise DataError(
            f"{table}: {_shown(two.image)} is a {one_part} image in row {one.number} and a {two_part} image "
            f"in row {two.number}: keep it in one split, or the test would be on images already seen"
        )


def _csv_rows(table: Path) -> list[_TableRow]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table}: the table is not UTF-8 text ({error.reason}): save it as CSV in UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{table}: the table cannot be read ({error.strerror}): make it readable") from error
    header = text.splitlines()[0] if text.strip() else ""
    delimiter = next((mark for mark in ",;\t" if len(_places(header.split(mark))) >= 2), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = list(reader)
    except csv.Error as error:
        raise DataError(
            f"{table}: line {reader.line_num} is not valid CSV ({error}): correct its quotes"
        ) from None
    columns = lines[0] if lines else []
    places = _checked_places(table, columns)
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError(
                f"{table}: row {number} has {count(len(cells), 'cell')} but the header has {len(columns)}: "
                f"put quotes around a cell that holds {delimiter!r}"
            )
        cell = {name: cells[place] if place < len(cells) else "" for name, place in places.items()}
        rows.append(_row(table, number, cell))
    return rows


def _parquet_rows(table: Path) -> list[_TableRow]:
    try:
        import pyarrow.lib
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(
            f'{table}: reading Parquet needs pyarrow: pip install "blocklora[data]", or save the table as CSV'
        ) from None
    try:
        schema = parquet.read_schema(table)
        places = _checked_places(table, schema.names)
        columns = parquet.read_table(table, columns=[schema.names[place] for place in places.values()])
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise DataError(f"{table}: the table cannot be read as Parquet ({error}): save it anew") from error
    names = _hub_class_names(schema.metadata or {}, schema.names[places["label"]])
    cells = zip(*(column.to_pylist() for column in columns.columns), strict=True)
    rows = []
    for number, values in enumerate(cells, start=1):
        cell = dict(zip(places, values, strict=True))
        label = cell["label"]
        if names and isinstance(label, int) and 0 <= label < len(names):
            cell["label"] = names[label]
        rows.append(_row(table, number, cell))
    return rows


def _hub_class_names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """Return the class names that the Hugging Face ``datasets`` library stores beside integer labels."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _places(columns: Iterable[str]) -> dict[str, int]:
    """Return where the wanted columns stand, whatever their case; of a repeated one the last."""
    names = {column.strip(' \t"').lower(): place for place, column in enumerate(columns)}
    return {name: names[name] for name in _WANTED if name in names}


def _checked_places(table: Path, columns: Sequence[str]) -> dict[str, int]:
    places = _places(columns)
    lower = [column.strip().lower() for column in columns]
    for name in _WANTED:
        if lower.count(name) > 1:
            raise DataError(f"{table}: column {name!r} stands {lower.count(name)} times: keep one")
    if "image" not in places or "label" not in places:
        found = ", ".join(repr(column) for column in columns) or "none"
        raise DataError(f"{table}: the table needs {_EXPECTED}; found are: {found}")
    return places


def _row(table: Path, number: int, cell: Mapping[str, Any]) -> _TableRow:
    """Check one row's cells."""
    image = cell["image"]
    if isinstance(image, dict):  # the hub's image: bytes, or a path where the bytes are missing
        image = image.get("bytes") or image.get("path")
    label = unicodedata.normalize("NFC", _text(cell["label"]))
    if not isinstance(image, bytes):
        image = _text(image)
    if not image:
        raise DataError(
            f"{table}: row {number} has no image: write the path of an image file, or remove the row"
        )
    if not label:
        raise DataError(f"{table}: row {number} ({_shown(image)}) has no label: write one, or remove the row")
    return _TableRow(number, image, label, _text(cell.get("split")))


def _text(value: Any) -> str:
    """Write a cell as text: nothing for a missing value, and whole floats as integers."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _shown(image: str | bytes) -> str:
    return "an image in the table" if isinstance(image, bytes) else image
