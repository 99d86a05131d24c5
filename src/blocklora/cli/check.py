"""The command ``blocklora check``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blocklora.cli.known import check_data as check_name
from blocklora.cli.known import check_model
from blocklora.cli.options import BaseModel, DataPath, Debug, Device, Json, Revision, Root
from blocklora.cli.output import ERR, OUT, print_json
from blocklora.core.errors import ConfigError
from blocklora.core.files import user_path
from blocklora.core.words import did_you_mean, printable

if TYPE_CHECKING:
    from blocklora.explore.check import CheckResult
    from blocklora.findings.finding import Finding

__all__ = ["check"]

_SHOWN = 3


def check(
    data: DataPath,
    root: Root = None,
    model: BaseModel = "openai/clip-vit-base-patch16",
    revision: Revision = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="A page with the images side by side: an HTML file, or a folder to put check.html into.",
            metavar="FILE.html",
            parser=user_path,
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="A table with a row for each image of each finding, and what to do with it.",
            metavar="FILE",
            parser=user_path,
        ),
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="Exit with 1 where one of these kinds is found, such as leaks,conflicts; any means every kind.",
            metavar="KINDS",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find what is wrong with labelled images: copies, leaks, wrong labels, outliers, bad images."""
    check_model(model)
    check_name(data, root)
    failing = _kinds(fail_on)
    if csv and not csv.parent.is_dir():
        raise ConfigError(f"--csv {csv}: there is no folder {csv.parent}; make it, or name another file.")
    from blocklora.cli.progress import RunProgress
    from blocklora.explore.check import check_data
    from blocklora.explore.check_page import page_path, write_check_csv, write_check_page

    page = page_path(out) if out else None
    with RunProgress(ERR) as progress:
        result = check_data(
            data, model=model, root=root, revision=revision, device=device, on_batch=progress.looked
        )
    if page:
        write_check_page(result, page)
    if csv:
        write_check_csv(result, csv)
    if as_json:
        print_json({"findings": [one.to_json() for one in result.findings]})
    else:
        _print(result, page, csv)
    if bad := sum(one.kind in failing for one in result.findings):
        ERR.print(f"error: --fail-on {fail_on}: found {bad}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _kinds(words: str | None) -> set[str]:
    """Return the kinds that ``--fail-on`` names, singular or plural.

    Raises:
        ConfigError: There is no such kind.
    """
    if words is None:
        return set()
    from blocklora.findings.finding import KINDS

    plurals = {f"{kind}s": kind for kind in KINDS}
    groups = {"any": set(KINDS), "duplicates": {"exact-duplicate", "near-duplicate"}}
    found: set[str] = set()
    for word in (part.strip().lower() for part in words.split(",") if part.strip()):
        kind = plurals.get(word, word)
        if kind not in KINDS and kind not in groups:
            known = [*groups, *KINDS]
            raise ConfigError(
                f"--fail-on '{word}': expected some of {', '.join(known)}{did_you_mean(word, known) or '.'}"
            )
        found |= groups.get(kind, {kind})
    return found


def _print(result: CheckResult, page: Path | None, csv: Path | None) -> None:
    """Print how many of each kind there are, what to do, and the worst of each."""
    from blocklora.explore.check_page import sentence
    from blocklora.findings.finding import KINDS

    _line(f"{sentence(result)}.")
    for note in result.notes:
        _line(f"note: {note}")
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for one in result.findings:
        kinds[one.kind].append(one)
    for kind, found in kinds.items():
        _line(f"{KINDS[kind].title}: {len(found):,}. {KINDS[kind].advice}")
        for one in found[:_SHOWN]:
            _line(f"  {one.message}")
        if len(found) > _SHOWN:
            _line(f"  ... and {len(found) - _SHOWN:,} more")
    if not kinds:
        _line("Nothing was found.")
    elif not page and not csv:
        _line("--out check.html shows the images side by side; --csv FILE lists them all.")
    for path in (page, csv):
        if path:
            _line(f"written to {path}")


def _line(text: str) -> None:
    OUT.print(printable(text), markup=False, soft_wrap=True)
