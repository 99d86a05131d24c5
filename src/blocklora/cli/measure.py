"""The command ``blocklora evaluate``."""

from __future__ import annotations

from os.path import expanduser
from typing import Annotated

import typer

from blocklora.cli.known import check_data, check_run
from blocklora.cli.options import Debug, Device, Json, Moved, Root, Run, Verbose
from blocklora.cli.output import ERR, print_json

__all__ = ["evaluate"]


def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option(
            help="Other labelled images, named as for 'blocklora fit'.",
            show_default="the run's own",
            metavar="DATA",
            parser=expanduser,
        ),
    ] = None,
    root: Root = None,
    model: Moved = None,
    device: Device = "auto",
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure a finished run again, on its own test images or on others."""
    check_run(run)
    if data is not None:
        check_data(data, root)
    from blocklora.cli.console import print_metrics
    from blocklora.cli.progress import RunProgress
    from blocklora.report import metrics_json
    from blocklora.run.evaluate import evaluate_run

    with RunProgress(ERR, verbose=verbose) as progress:
        metrics = evaluate_run(run, data, root=root, device=device, model=model, progress=progress)
    if as_json:
        print_json(metrics_json(metrics))
    else:
        print_metrics(metrics, None)
