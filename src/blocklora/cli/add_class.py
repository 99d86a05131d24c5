"""The command ``blocklora add-class``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Device, Json, Moved, Run, Verbose
from blocklora.cli.output import ERR, print_json
from blocklora.core.deadline import parse_seconds
from blocklora.core.files import user_path

__all__ = ["add_class"]


def add_class(
    run: Run,
    name: Annotated[str, typer.Argument(help="The name of the new class.", metavar="NAME")],
    folder: Annotated[
        Path, typer.Argument(help="Its images; a quarter tests it.", metavar="FOLDER", parser=user_path)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The RUN folder to make.", metavar="NEW_RUN", parser=user_path, show_default="RUN-with-NAME"
        ),
    ] = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Train on the run's own images and the new ones; an adapter goes on."),
    ] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(help="The time for --train, such as 10m.", metavar="TIME", show_default="none"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --train where it was interrupted.")
    ] = False,
    model: Moved = None,
    device: Device = "auto",
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Add a class to a finished run: a new RUN folder, with accuracy before and after. The old one stays."""
    began = time.monotonic()
    check_run(run)
    if time_limit is not None:
        parse_seconds(time_limit)
    from blocklora.cli.console import print_metrics
    from blocklora.cli.progress import RunProgress
    from blocklora.report import metrics_json
    from blocklora.run.add_class import add_class as add

    with RunProgress(ERR, verbose=verbose) as progress:
        try:
            made, metrics = add(
                run, name, folder, out, train=train, time_limit=time_limit, resume=resume,
                device=device, model=model, progress=progress, began=began,
            )  # fmt: skip
        except KeyboardInterrupt as stop:
            if stop.args:  # training had begun, and its state is kept
                ERR.print(f"{stop}; go on with the same command and --resume.", soft_wrap=True)
            raise
    if as_json:
        print_json(metrics_json(metrics) | {"run": str(made)})
    else:
        print_metrics(metrics, made)
