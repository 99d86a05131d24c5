"""The command ``blocklora suggest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Device, Json, Moved, Run
from blocklora.cli.output import ERR, OUT, print_json
from blocklora.core.files import user_path
from blocklora.core.words import count, printable

__all__ = ["suggest"]

_SHOWN = 5


def suggest(
    run: Run,
    images: Annotated[
        list[Path],
        typer.Argument(help="Folders of unlabelled images, or images.", metavar="FOLDER", parser=user_path),
    ],
    n: Annotated[int, typer.Option("-n", help="How many images to suggest.", min=1)] = 50,
    out: Annotated[
        Path,
        typer.Option(help="Where to_label.csv and label.html go.", metavar="FOLDER", parser=user_path),
    ] = Path("to_label"),
    model: Moved = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Suggest which unlabelled images to label next, and write a page to label them on."""
    check_run(run)
    from blocklora.cli.progress import RunProgress
    from blocklora.explore.label_page import PAGE, TABLE, write_suggestions
    from blocklora.explore.suggest import suggest_images

    with RunProgress(ERR) as progress:
        found = suggest_images(run, images, n, device=device, model=model, on_batch=progress.looked)
    write_suggestions(found, out)
    if as_json:
        rows = [
            {"image": str(one.path), "score": one.score, "why": one.why, "guess": one.guess,
             "probability": one.probability}
            for one in found.images
        ]  # fmt: skip
        print_json({"suggestions": rows, "notes": list(found.notes)})
        return
    for note in found.notes:
        _line(f"note: {note}")
    _line(f"{count(len(found.images), 'image')} to label, the most useful first:")
    for one in found.images[:_SHOWN]:
        _line(f"  {one.path} ({one.why}; {one.guess} {one.probability:.0%})")
    if len(found.images) > _SHOWN:
        _line(f"  ... and {len(found.images) - _SHOWN} more in {out / TABLE}")
    _line(f"label them on {out / PAGE}, save labels.csv, and go on with: blocklora fit DATA --add labels.csv")


def _line(text: str) -> None:
    OUT.print(printable(text), markup=False, soft_wrap=True)
