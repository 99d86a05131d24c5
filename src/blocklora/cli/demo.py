"""The command ``blocklora demo``."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from blocklora.cli.known import check_data
from blocklora.cli.options import Debug, Json, Out, Verbose
from blocklora.cli.output import ERR, print_json, write

__all__ = ["demo"]


def demo(
    out: Out = Path("runs/demo"),
    data: Annotated[str, typer.Option(help="A bundled task: digits, twemoji or clipart.", metavar="TASK")] = (
        "digits"
    ),
    as_json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show zero-shot against Block-LoRA, offline, with the bundled model: 16 shots, three seeds."""
    check_data(data, None)
    ERR.print("Fitting block-lora to the bundled task, three times; a minute or two each.", soft_wrap=True)
    from blocklora.cli.console import print_demo
    from blocklora.cli.progress import RunProgress
    from blocklora.run.demo import run_demo

    with RunProgress(ERR, verbose=verbose) as progress:
        result = run_demo(out, data, progress)
    if as_json:
        print_json(result.to_json())
        return
    print_demo(result)
    report = str(Path(result.runs[0].run) / "report.html")
    if command := _how_to_open(report):
        write(f"open the first with: {command}\n")


def _how_to_open(path: str) -> str | None:
    """Return the command that shows a file in a browser on this system, or None where there is none."""
    if sys.platform == "win32":
        return f'start "{path}"' if " " in path else f"start {path}"
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    return f"{opener} {shlex.quote(path)}" if shutil.which(opener) else None
