"""The command ``blocklora compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Json
from blocklora.cli.output import OUT, print_json
from blocklora.core.files import user_path
from blocklora.core.words import count, printable

if TYPE_CHECKING:
    from blocklora.report import Comparison, DisputedImage

__all__ = ["compare"]

_SHOWN_PAIRS, _SHOWN_IMAGES = 15, 10


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more RUN folders, as 'blocklora fit' makes them.",
            metavar="RUN",
            parser=user_path,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="A page to write, too: one HTML file.", metavar="FILE.html", parser=user_path),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs on the test images that all of them have: accuracy, tests, calibration, cost."""
    for run in runs:
        check_run(run)
    from blocklora.report import check_comparison_page, write_comparison
    from blocklora.run.compare import compare_runs, open_shown

    if out:
        check_comparison_page(out)
    found = compare_runs(runs)
    if out:
        write_comparison(found, out, open_shown(runs[0], found))
    if as_json:
        print_json(found.to_json())
        return
    _print_comparison(found)
    if out:
        OUT.print(f"page: {out}", markup=False, soft_wrap=True)


def _print_comparison(found: Comparison) -> None:
    """Print what a person wants to know, in 80 columns."""
    from blocklora.report import compared_sentence, pair_verdict, run_words

    OUT.print(compared_sentence(found), markup=False)
    for run in found.runs:
        OUT.print(f"  {run.key}  {printable(run.folder)}: {run_words(run)}", markup=False, soft_wrap=True)
    for note in found.notes:
        OUT.print(f"warning: {printable(note)}", markup=False, soft_wrap=True, style="yellow")
    OUT.print(_runs_table(found))
    if len(found.pairs) == 1:
        verdict = pair_verdict(found.pairs[0])
        OUT.print(f"{verdict.headline}.", markup=False)
        OUT.print(verdict.evidence, markup=False)
    else:
        _print_pairs(found)
    _print_disputed(found)


def _runs_table(found: Comparison) -> Table:
    from blocklora.report.words import duration, percent, percent_range

    table = _table("", "accuracy", "95% interval", "ECE", "log loss", "training", "parameters")
    for run in found.runs:
        table.add_row(
            run.key,
            percent(run.accuracy),
            percent_range(run.accuracy_interval),
            percent(run.ece),
            f"{run.nll:.3f}",
            "–" if run.train_seconds is None else duration(run.train_seconds),
            "–" if run.trainable_parameters is None else f"{run.trainable_parameters:,}",
        )
    return table


def _print_pairs(found: Comparison) -> None:
    """Print the pairs, those of the smallest p first."""
    from blocklora.report import pair_verdict
    from blocklora.report.words import p_value, signed

    table = _table(
        "pair", "points", "95% interval", "first\nalone", "second\nalone", "p", "p, Holm", "better"
    )
    pairs = sorted(found.pairs, key=lambda pair: (pair.answers.p_value, -abs(pair.answers.difference)))
    for pair in pairs[:_SHOWN_PAIRS]:
        answers = pair.answers
        table.add_row(
            f"{pair.first}, {pair.second}",
            signed(answers.difference),
            " to ".join(map(signed, answers.interval)),
            f"{answers.only_first:,}",
            f"{answers.only_second:,}",
            p_value(answers.p_value),
            p_value(pair.p_holm),
            {"better": pair.first, "worse": pair.second, "same": "–"}[pair_verdict(pair).kind],
        )
    OUT.print(table)
    if len(pairs) > _SHOWN_PAIRS:
        OUT.print(f"... and {count(len(pairs) - _SHOWN_PAIRS, 'more pair')}; --json has all.")


def _print_disputed(found: Comparison) -> None:
    """Print the first images that some runs get right and others wrong."""
    total = len(found.disputed)
    OUT.print(
        f"{count(total, 'image')} of {found.n_images} {'is' if total == 1 else 'are'} right in some runs and wrong in "
        f"others{':' if total else '.'}",
        markup=False,
    )
    keys = [run.key for run in found.runs]
    for one in found.disputed[:_SHOWN_IMAGES]:
        OUT.print(f"  {printable(_disputed_line(one, keys))}", markup=False, soft_wrap=True)
    if total > _SHOWN_IMAGES:
        OUT.print(f"  ... and {total - _SHOWN_IMAGES} more; --json has all, --out shows them.", markup=False)


def _disputed_line(one: DisputedImage, keys: list[str]) -> str:
    """Say who is right on an image, and what the others say: "a/1.jpg (cat): A right; B says dog"."""
    answers = list(zip(keys, one.predicted, one.correct, strict=True))
    right = ", ".join(key for key, _, correct in answers if correct)
    wrong = "; ".join(f"{key} says {predicted}" for key, predicted, correct in answers if not correct)
    return f"{one.image} ({one.label}): {right} right; {wrong}"


def _table(first: str, *headings: str) -> Table:
    table = Table()
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap="\n" not in heading)
    return table
