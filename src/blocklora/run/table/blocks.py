"""A folder of Parquet files, one for each block of images: what many machines answer together.

OUT holds settings.json and images.jsonl (what is asked for) and part-000012.parquet (the answers of lines 12 * 512 up
to 13 * 512). A part is written whole under its name, so that a block that is done twice is there once, and a block
whose part is there is not done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from blocklora.core.errors import ConfigError, DataError, RunError
from blocklora.core.files import claim_folder, write_json
from blocklora.run.load import LoadedRun
from blocklora.run.predict import Asked, predict_portions
from blocklora.run.table.columns import ONE_LABEL, Columns
from blocklora.run.table.formats import check_format, write_rows
from blocklora.run.table.places import open_places, write_places
from blocklora.run.table.work import classifier_fingerprint

__all__ = ["BlockOrder", "as_input", "do_block", "open_blocks"]

_SETTINGS, _IMAGES = "settings.json", "images.jsonl"
_FORMAT = 1


@dataclass(frozen=True)
class BlockOrder:
    """What is asked for.

    Attributes:
        run: The RUN folder.
        inputs: Files, folders, URIs and Parquet tables.
        out: The folder of parts; every machine must reach it by this name.
        asked: What is asked for of each image.
        abstain_below: The probability below which a row has no label.
        block: Images of a part.
    """

    run: Path
    inputs: Sequence[str]
    out: Path
    asked: Asked = ONE_LABEL
    abstain_below: float = 0.0
    block: int = 512

    def part(self, place: int) -> Path:
        """Return the file of a block."""
        return self.out / f"part-{place:06}.parquet"

    def settings(self) -> Mapping[str, Any]:
        """Return what must be the same where the work is gone on with, ready for JSON."""
        return {
            "format": _FORMAT,
            "classifier": classifier_fingerprint(self.run),
            "images": list(self.inputs),
            **self.asked.settings(),
            "abstain_below": self.abstain_below,
            "block": self.block,
        }


@contextmanager
def open_blocks(order: BlockOrder) -> Iterator[tuple[int, list[int]]]:
    """List the images, or go on with what was begun, and keep other leaders out.

    Yields:
        How many images there are, and which blocks are missing.

    Raises:
        ConfigError: A value cannot work.
        DataError: There is no image.
        RunError: The folder holds something else, or was begun with another run or other settings.
    """
    check_format(order.part(0))
    if not 0 <= order.abstain_below <= 1:
        raise ConfigError(f"abstain_below {order.abstain_below}: expected a probability from 0 to 1.")
    settings = order.settings()
    with claim_folder(order.out) as folder:
        if (folder / _SETTINGS).exists():
            _check_same(order, settings)
        else:
            if strange := {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} - {
                _IMAGES
            }:
                raise RunError(f"{folder}: holds something else ({min(strange)}); choose another --out.")
            if not write_places(folder / _IMAGES, order.inputs):
                (folder / _IMAGES).unlink()
                raise DataError(f"{', '.join(order.inputs)}: there are no images here.")
            write_json(folder / _SETTINGS, settings)
        with open(folder / _IMAGES, "rb") as stream:
            n_images = sum(1 for _ in stream)
        blocks = range(-(-n_images // order.block))
        yield n_images, [place for place in blocks if not order.part(place).exists()]


def do_block(order: BlockOrder, run: LoadedRun, place: int) -> int:
    """Answer a block, write its part, and return how many images it has."""
    columns = Columns(order.asked, len(run.labels), abstain_below=order.abstain_below)
    with open(order.out / _IMAGES, "rb") as stream:
        lines = list(islice(stream, place * order.block, (place + 1) * order.block))
    images = open_places(json.loads(line) for line in lines)
    portions = predict_portions(run, images, order.asked)
    write_rows(
        order.part(place),
        columns.kinds,
        (columns.row(answer) for portion in portions for answer in portion.answers),
    )
    return len(lines)


def _check_same(order: BlockOrder, settings: Mapping[str, Any]) -> None:
    """Raise where the folder was begun with another run or other settings."""
    path = order.out / _SETTINGS
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in {**settings, **before} if before.get(name) != settings.get(name)]
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); choose another --out.") from error
    if changed:
        what = "another classifier" if "classifier" in changed else f"another value of {changed[0]}"
        raise RunError(f"{order.out}: was begun with {what}; go on with the same, or choose another --out.")


def as_input(name: str) -> str:
    """Return an input as every process understands it: a path becomes absolute, a URI stays as it is."""
    return name if "://" in name else os.path.abspath(name)
