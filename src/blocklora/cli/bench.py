"""The commands ``blocklora bench`` and ``blocklora tables``: many runs, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blocklora.cli.options import Debug, Json
from blocklora.cli.output import ERR, print_json, write
from blocklora.core.files import user_path
from blocklora.core.shards import Shard
from blocklora.core.words import count

__all__ = ["bench", "tables"]


def bench(
    grid: Annotated[
        Path,
        typer.Argument(
            help="A TOML file: data sets, shots, seeds, methods and models.", metavar="GRID", parser=user_path
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="The RESULTS folder, made or gone on with.", metavar="FOLDER", parser=user_path),
    ] = Path("results"),
    workers: Annotated[
        int | None, typer.Option(help="Processes.", min=1, show_default="what memory and cores allow")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do the runs again that failed.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Do part I of N alone; all parts may share one --out.", metavar="I/N"),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Do the runs on a Ray cluster; auto is the one here, or one made of this machine.",
            metavar="auto|ADDRESS",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Do all runs of a grid that are still missing; the same command goes on after an interruption."""
    from blocklora.bench.progress import BenchProgress
    from blocklora.bench.run import run_grid

    with BenchProgress(ERR) as progress:
        try:
            counts = run_grid(
                grid, out, workers=workers, retry_failed=retry_failed,
                shard=Shard.parse(shard) if shard else None, ray=ray, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            ERR.print(f"stopped; the same command goes on from what {out} holds.", soft_wrap=True)
            raise
    failed = counts["failed"] + counts["failed_before"]
    if as_json:
        print_json(counts)
    else:
        write(
            f"{count(counts['done'], 'run')} done, {failed} of {counts['planned']} failed; results: {out}\n"
        )
    if failed:
        raise typer.Exit(1)


def tables(
    results: Annotated[
        Path,
        typer.Argument(help="A RESULTS folder of 'blocklora bench'.", metavar="RESULTS", parser=user_path),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to make.", show_default="RESULTS/tables", metavar="FOLDER", parser=user_path
        ),
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
        write("".join(f"{path}\n" for path in files))
