"""The command line: its commands, and how it ends.

Heavy modules are imported inside the commands, so that ``--help`` answers at once. Results go to stdout, all
else to stderr. Exit code 0: done; 1: it failed, with one line that says why; 2: the command was wrong;
130: stopped by Ctrl-C; 141: the reader of stdout went away, as ``head`` does.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from blocklora.cli.add_class import add_class
from blocklora.cli.bench import bench, tables
from blocklora.cli.check import check
from blocklora.cli.compare import compare
from blocklora.cli.datasets import datasets
from blocklora.cli.demo import demo
from blocklora.cli.export import export
from blocklora.cli.fit import base_to_new, cross_dataset, domain_generalization, fit
from blocklora.cli.measure import evaluate
from blocklora.cli.output import ERR, end_output, is_first, take_any_name, write
from blocklora.cli.plan import plan
from blocklora.cli.predict import predict
from blocklora.cli.push import push
from blocklora.cli.serve import serve
from blocklora.cli.suggest import suggest
from blocklora.core.errors import BlockloraError, LostRankError, RankStoppedError
from blocklora.core.words import printable

__all__ = ["app", "main"]

_START, _MORE = "Start here", "Experiments"

app = typer.Typer(
    name="blocklora",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo,
    check,
    fit,
    evaluate,
    predict,
    suggest,
    add_class,
    compare,
    serve,
    export,
    push,
    datasets,
):
    app.command(rich_help_panel=_START)(command)
for command in (plan, bench, tables, base_to_new, cross_dataset, domain_generalization):
    app.command(rich_help_panel=_MORE)(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from blocklora import __version__  # late: it reads the package's metadata

        write(f"blocklora {__version__}\n")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A CLIP classifier from a handful of labelled images, by Block-LoRA.

    Try 'blocklora demo' first; then 'blocklora fit FOLDER', where FOLDER holds a folder of images for each class.
    """


def main() -> None:
    """Run the command line; a failure is one line on stderr and exit code 1."""
    take_any_name()
    try:
        app(prog_name="blocklora")
    except BlockloraError as error:
        if isinstance(error, RankStoppedError | LostRankError) and not is_first():
            sys.exit(1)  # the first process says why
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}.")
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)")
    finally:
        end_output()


def _fail(reason: str) -> None:
    """Print the reason, with the traceback where ``--debug`` asks for it, and exit with 1."""
    if "--debug" in sys.argv:
        ERR.print_exception()
    which = "" if is_first() else f"process {os.environ['RANK']}: "
    ERR.print(
        f"{which}error: " + printable(" ".join(reason.split())), style="red", markup=False, soft_wrap=True
    )
    sys.exit(1)
