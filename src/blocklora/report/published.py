"""Figures that others have published, each table with its source; they stand beside our own, and are never mixed in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PublishedTable", "Recipe", "published_recipes", "published_table"]

_FILE = Path(__file__).resolve().parent.parent / "assets" / "published.json"


@dataclass(frozen=True)
class PublishedTable:
    """A published table.

    Attributes:
        name: ``few-shot`` or ``base-to-new``.
        title: What it shows; it begins with "Published".
        unit: Of its numbers.
        source: Where it was read: repository, file and commit.
        column: What tells the columns apart.
        columns: Their headings.
        rows: By method, one number a column.
        remark: What is odd in it.
    """

    name: str
    title: str
    unit: str
    source: str
    column: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    remark: str = ""


@dataclass(frozen=True)
class Recipe:
    """The settings of a method as published: where they were read, and how the kept step was selected."""

    method: str
    source: str
    settings: str
    selection: str


def published_table(name: str) -> PublishedTable:
    """Return a published table; ``KeyError`` where there is none of that name."""
    tables = {table["name"]: table for table in json.loads(_FILE.read_text(encoding="utf-8"))["tables"]}
    table = tables[name]
    rows = {method: tuple(numbers) for method, numbers in table["rows"].items()}
    return PublishedTable(**table | {"columns": tuple(table["columns"]), "rows": rows})


def published_recipes() -> list[Recipe]:
    """Return how each method was trained in its published code."""
    return [Recipe(**recipe) for recipe in json.loads(_FILE.read_text(encoding="utf-8"))["recipes"]]
