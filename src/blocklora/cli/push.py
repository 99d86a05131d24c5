"""The command ``blocklora push``."""

from __future__ import annotations

from typing import Annotated

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Json, Run
from blocklora.cli.output import OUT, print_json

__all__ = ["push"]


def push(
    run: Run,
    repo_id: Annotated[
        str, typer.Argument(help="Where to on the Hugging Face hub: user/name.", metavar="USER/NAME")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="A repository that has to be made is private.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put a finished run on the Hugging Face hub, with a model card; no image is uploaded."""
    check_run(run)
    from blocklora.classifier import hub_use, push_folder
    from blocklora.export.card import run_card

    url = push_folder(run, repo_id, run_card(run, use=hub_use(repo_id), library="blocklora"), private=private)
    if as_json:
        print_json({"url": url})
    else:
        OUT.print(f"pushed to {url}", markup=False, soft_wrap=True)
