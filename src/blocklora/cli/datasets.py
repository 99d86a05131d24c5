"""The command ``blocklora datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blocklora.cli.known import nearest
from blocklora.cli.options import Debug, Json, Root
from blocklora.cli.output import print_json, write
from blocklora.core.errors import DataError
from blocklora.core.words import count

__all__ = ["datasets"]

_SHOWN_IMAGES = 8


def datasets(
    name: Annotated[str | None, typer.Argument(help="A data set.", show_default="all of them")] = None,
    root: Root = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the data sets known by name; with --root, say what of them is there and what is missing."""
    from blocklora.data import BENCHMARKS, bundled_names, inventory, known_benchmark

    if root is not None:
        sets = [known_benchmark(name)] if name else list(BENCHMARKS.values())
        rows = [inventory(row, Path(root)) for row in sets]
    elif name in bundled_names():
        rows = [_bundled(str(name))]
    elif name:
        rows = [_published(_known(name))]
    else:
        rows = [*map(_bundled, bundled_names()), *map(_published, BENCHMARKS.values())]
    if as_json:
        print_json(rows)
    else:
        write("\n".join(_details(rows[0]) if name else map(_line, rows)) + "\n")
    if name and not rows[0].get("complete", True):
        raise typer.Exit(1)


def _known(name: str) -> Any:
    """Return a data set of the literature, or say what else there is."""
    from blocklora.data import BENCHMARKS, bundled_names, known_benchmark

    try:
        return known_benchmark(name)
    except DataError:
        names = [*bundled_names(), *BENCHMARKS]
        text = f"no data set is called '{name}': choose one of {', '.join(names)}{nearest(name, names)}"
        raise DataError(text) from None


def _bundled(name: str) -> dict[str, Any]:
    """Describe a task that comes with the package."""
    from blocklora.data import load_dataset

    task = load_dataset(name)
    images = {part: len(getattr(task, part)) for part in ("train", "val", "test")}
    row = {"name": name, "title": name, "n_classes": len(task.class_names), "prompt": task.prompt}
    return row | {"page": None, "expected": [], "images": images}


def _published(row: Any) -> dict[str, Any]:
    """Describe a data set of the literature."""
    from blocklora.data import expected_tree

    known = {name: getattr(row, name) for name in ("name", "title", "n_classes", "prompt", "page")}
    return known | {"expected": expected_tree(row)}


def _line(row: dict[str, Any]) -> str:
    """Describe a data set in a line."""
    about = f"{row['n_classes']:>5} classes  {row['page'] or 'bundled, works offline'}"
    return f"{row['name']:<16} {row['title']:<16}" + (_state(row) if "complete" in row else about)


def _details(row: dict[str, Any]) -> list[str]:
    """Describe one data set, line by line."""
    if row["page"] is None:
        return [
            f"{row['name']}: bundled, works offline; {row['n_classes']} classes, prompt {row['prompt']!r}",
            f"images: {_parts(row)}",
            f"try: blocklora fit {row['name']} --model tiny --shots 16 --lr 4e-3 --iterations 150",
        ]
    lines = [f"{row['title']} ({row['name']}), prompt {row['prompt']!r}, from {row['page']}"]
    lines += ["expected below the root:", *(f"  {line}" for line in row["expected"])]
    if "complete" not in row:
        return [*lines, f"see what is there: blocklora datasets {row['name']} --root FOLDER"]
    return lines + _found(row)


def _found(row: dict[str, Any]) -> list[str]:
    """Describe what of one data set is on disk, line by line."""
    lines = [f"folder: {row['folder'] or 'not there'}"]
    lines += [f"{word}: {', '.join(row[word])}" for word in ("there", "missing") if row[word]]
    if row["images"]:
        lines.append(f"images: {_parts(row)}; {count(row['n_classes'], 'class')}")
    lines += [f"missing image: {image}" for image in row["missing_images"][:_SHOWN_IMAGES]]
    return [*lines, *(f"note: {note}" for note in row["notes"]), _state(row)]


def _parts(row: dict[str, Any]) -> str:
    return ", ".join(f"{n:,} {part}" for part, n in row["images"].items())


def _state(row: dict[str, Any]) -> str:
    """Return in a few words whether a data set can be used."""
    if row["complete"]:
        return "complete"
    if row["problem"]:
        return f"not usable: {row['problem']}" if row["folder"] else "not there"
    if row["missing_images"]:
        return f"{count(len(row['missing_images']), 'image')} missing"
    return f"usable, but not whole: {'; '.join(row['notes'])}"
