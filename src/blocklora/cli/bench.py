"""The commands ``blocklora bench`` and ``blocklora tables``: many runs, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from blocklora.cli.transfer import print_json

__all__ = ["bench", "tables"]

_err = Console(stderr=True, highlight=False)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


def bench(
    grid: Annotated[Path, typer.Argument(help="A TOML file: data sets, shots, seeds, methods and models.")],
    out: Annotated[Path, typer.Option(help="The RESULTS folder, made or gone on with.")] = Path("results"),
    workers: Annotated[
        int | None, typer.Option(help="Processes.", min=1, show_default="what memory and cores allow")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do the runs again that failed.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Do all runs of a grid that are still missing; the same command goes on after an interruption."""
    from blocklora.bench.progress import BenchProgress
    from blocklora.bench.run import run_grid

    with BenchProgress(_err) as progress:
        try:
            counts = run_grid(grid, out, workers=workers, retry_failed=retry_failed, progress=progress)
        except KeyboardInterrupt:
            _err.print(f"stopped; the same command goes on from what {out} holds.", soft_wrap=True)
            raise
    failed = counts["failed"] + counts["failed_before"]
    if as_json:
        print_json(counts)
    else:
        print(f"{counts['done']} runs done, {failed} of {counts['planned']} failed; results: {out}")
    if failed:
        raise typer.Exit(1)


def tables(
    results: Annotated[Path, typer.Argument(help="A RESULTS folder of 'blocklora bench'.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to make.", show_default="RESULTS/tables")
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw, too (needs matplotlib).")] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write tables (Markdown, LaTeX, CSV, HTML) and plots of a bench, with intervals and tests."""
    from blocklora.bench.report import write_tables

    files = write_tables(results, out or results / "tables", plots=plots)
    if as_json:
        print_json([str(path) for path in files])
    else:
        print("\n".join(str(path) for path in files))
