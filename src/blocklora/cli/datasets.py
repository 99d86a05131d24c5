"""The command ``blocklora datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blocklora.cli.options import Debug, Json, Root
from blocklora.cli.output import print_json, write
from blocklora.core.errors import DataError
from blocklora.core.words import count, did_you_mean

if TYPE_CHECKING:
    from blocklora.data.literature.benchmarks import Benchmark
    from blocklora.data.literature.inventory import Inventory

__all__ = ["datasets"]

_SHOWN_IMAGES = 8


@dataclass(frozen=True)
class _Listed:
    """A data set that is known by name.

    Attributes:
        name: Of the data set.
        title: As publications write it.
        n_classes: How many it has.
        prompt: Its own.
        page: Where it comes from; None is bundled.
        expected: The files and folders that it consists of, a line each.
        images: How many each part has; None is not known.
    """

    name: str
    title: str
    n_classes: int
    prompt: str
    page: str | None
    expected: tuple[str, ...] = ()
    images: Mapping[str, int] | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts as a JSON object."""
        return {name: value for name, value in vars(self).items() if value is not None or name == "page"}


def datasets(
    name: Annotated[str | None, typer.Argument(help="A data set.", show_default="all of them")] = None,
    root: Root = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the data sets known by name; with --root, say what of them is there and what is missing."""
    from blocklora.data import BENCHMARKS, bundled_names, inventory, known_benchmark

    rows: list[_Listed | Inventory]
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
        print_json([row.to_json() for row in rows])
    else:
        write("\n".join(_details(rows[0]) if name else map(_line, rows)) + "\n")
    if name and not getattr(rows[0], "complete", True):
        raise typer.Exit(1)


def _known(name: str) -> Benchmark:
    """Return a data set of the literature, or say what else there is."""
    from blocklora.data import BENCHMARKS, bundled_names, known_benchmark

    try:
        return known_benchmark(name)
    except DataError:
        names = [*bundled_names(), *BENCHMARKS]
        text = f"no data set is called '{name}': choose one of {', '.join(names)}{did_you_mean(name, names) or '.'}"
        raise DataError(text) from None


def _bundled(name: str) -> _Listed:
    """Describe a task that comes with the package."""
    from blocklora.data import load_dataset

    task = load_dataset(name)
    images = {part: len(getattr(task, part)) for part in ("train", "val", "test")}
    return _Listed(name, name, len(task.class_names), task.prompt, None, images=images)


def _published(row: Benchmark) -> _Listed:
    """Describe a data set of the literature."""
    from blocklora.data import expected_tree

    return _Listed(row.name, row.title, row.n_classes, row.prompt, row.page, tuple(expected_tree(row)))


def _line(row: _Listed | Inventory) -> str:
    """Describe a data set in a line."""
    about = (
        f"{row.n_classes:>5} classes  {row.page or 'bundled, works offline'}"
        if isinstance(row, _Listed)
        else _state(row)
    )
    return f"{row.name:<16} {row.title:<16}{about}"


def _details(row: _Listed | Inventory) -> list[str]:
    """Describe one data set, line by line."""
    if row.page is None:
        return [
            f"{row.name}: bundled, works offline; {row.n_classes} classes, prompt {row.prompt!r}",
            f"images: {_parts(row.images or {})}",
            f"try: blocklora fit {row.name} --model tiny --shots 16 --lr 4e-3 --iterations 150",
        ]
    lines = [f"{row.title} ({row.name}), prompt {row.prompt!r}, from {row.page}"]
    lines += ["expected below the root:", *(f"  {line}" for line in row.expected)]
    if isinstance(row, _Listed):
        return [*lines, f"see what is there: blocklora datasets {row.name} --root FOLDER"]
    return lines + _found(row)


def _found(row: Inventory) -> list[str]:
    """Describe what of one data set is on disk, line by line."""
    lines = [f"folder: {row.folder or 'not there'}"]
    lines += [
        f"{word}: {', '.join(files)}"
        for word, files in (("there", row.there), ("missing", row.missing))
        if files
    ]
    if row.images:
        lines.append(f"images: {_parts(row.images)}; {count(row.n_classes, 'class')}")
    lines += [f"missing image: {image}" for image in row.missing_images[:_SHOWN_IMAGES]]
    return [*lines, *(f"note: {note}" for note in row.notes), _state(row)]


def _parts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {part}" for part, n in images.items())


def _state(row: Inventory) -> str:
    """Return in a few words whether a data set can be used."""
    if row.complete:
        return "complete"
    if row.problem:
        return f"not usable: {row.problem}" if row.folder else "not there"
    if row.missing_images:
        return f"{count(len(row.missing_images), 'image')} missing"
    return f"usable, but not whole: {'; '.join(row.notes)}"
